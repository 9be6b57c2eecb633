# llq_sweep: `make help` lists what can be made.

NVCC      ?= $(or $(shell command -v nvcc 2>/dev/null),$(wildcard /usr/local/cuda/bin/nvcc))
CUDA      ?= $(if $(NVCC),1,0)#  0: the CPU engine alone, for login nodes and laptops
CUDA_ARCH ?= 80 90#              compute capabilities to compile for
CUDA_PTX  ?= 80#                 and one whose code a driver compiles for newer devices
SAN       ?=#                    e.g. address,undefined
PREFIX    ?= /usr/local
DESTDIR   ?=
PYTHON    ?= $(shell for p in python3 /usr/bin/python3; do $$p -c 'import h5py, numpy, matplotlib' \
                 2>/dev/null && echo $$p && break; done)
# A setting that changes the code changes the folder, so builds never mix.
BUILD     ?= build/$(if $(filter 1,$(CUDA)),cuda,cpu)$(if $(SAN),-san)

VERSION := 0.1.0
COMMIT  := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)

CC  = mpicc
CXX = mpicxx
HDF5_PC := $(shell for p in hdf5 hdf5-serial; do pkg-config --exists $$p 2>/dev/null && echo $$p && break; done)
PACKAGES = jansson libpcre2-8 libutf8proc tomlplusplus hwloc openblas libcrypto $(HDF5_PC)
PC_CFLAGS := $(shell pkg-config --cflags $(PACKAGES) 2>/dev/null)
PC_LIBS   := $(shell pkg-config --libs $(PACKAGES) 2>/dev/null)
# No contraction and no fast-math: a result is the same on every machine and in every batch.
SHARED   = -g -O2 -ffp-contract=off -fopenmp -pthread -Isrc -MMD -MP $(PC_CFLAGS)
WARN     = -Wall -Wextra -Wshadow -Werror
CFLAGS   = -std=gnu17 -D_GNU_SOURCE $(WARN) $(SHARED)
CXXFLAGS = -std=c++17 $(WARN) $(SHARED)
LDLIBS   = $(PC_LIBS) -lstdc++ -lm -fopenmp -pthread -ldl
# -fmad=false: a fused multiply-add stands where fmaf() is written (cuda/common.cuh).
NVFLAGS  = -std=c++20 -O3 -fmad=false -lineinfo -Isrc -Icuda -MMD -MP -Xcompiler -Wall,-Wextra,-Werror \
           $(foreach a,$(CUDA_ARCH:90=90a),-gencode arch=compute_$a,code=sm_$a) \
           $(foreach a,$(CUDA_PTX),-gencode arch=compute_$a,code=compute_$a)
ifneq ($(SAN),)
  CFLAGS   += -fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer
  CXXFLAGS += -fsanitize=$(SAN) -fno-sanitize-recover=all
  LDLIBS   += -fsanitize=$(SAN)
endif

ROOMS := base backend cpu tokenizer model quant eval bench sweep record sched
C_SRC := $(foreach r,$(ROOMS),$(wildcard src/$r/*.c)) $(filter-out src/main.c,$(wildcard src/*.c))
OBJ   := $(C_SRC:%.c=$(BUILD)/%.o) $(patsubst %.cpp,$(BUILD)/%.o,$(wildcard src/*/*.cpp))
CU_SRC := $(wildcard cuda/*.cu)
ifeq ($(strip $(CUDA)),1)
ifneq ($(CU_SRC),)
  CFLAGS += -DWITH_CUDA
  OBJ    += $(CU_SRC:%.cu=$(BUILD)/%.o)
  CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(realpath $(NVCC)))
  CUDA_INCLUDE = -isystem $(CUDA_HOME)/include
  LDLIBS += -L$(CUDA_HOME)/lib64 -lcudart_static -lrt
endif
endif
# Only the libraries that a program uses, found beside it first; theirs, too (no new tags).
BESIDE   = -Wl,-rpath,'$$ORIGIN/lib' -Wl,--disable-new-dtags
GPU_LINK = gcc $(CFLAGS) -Itests -Icuda $(CUDA_INCLUDE) $< $(LIB) -Wl,--as-needed $(LDLIBS) \
           -lcmocka $(BESIDE) -o $@
LIB   := $(BUILD)/libllq.a
TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))
GOLDEN_TESTS := $(filter %_golden,$(TESTS))
BENCHES := $(patsubst tests/bench/%.c,$(BUILD)/bench/%,$(filter-out %/bench_gemm.c %/bench_linear.c,$(wildcard tests/bench/*.c)))

FAULT_HELPERS := $(BUILD)/faults/strike $(BUILD)/faults/jump.so

all: llq_sweep

$(BUILD)/llq_sweep: $(BUILD)/src/main.o $(LIB)
	$(SAY) LINK $@
	$(Q)$(CC) $(BUILD)/src/main.o $(LIB) $(LDLIBS) -o $@

# Compared each time: the one in place may come from a build with other settings.  Renamed, so that
# one that runs is not overwritten.
llq_sweep: $(BUILD)/llq_sweep FORCE     ## the program (default)
	@cmp -s $< $@ || { cp $< $@.new && mv $@.new $@; }

FORCE:

$(LIB): $(OBJ)
	@rm -f $@ && ar rcs $@ $(OBJ)

# What mpirun asks for: root must be allowed twice, more ranks than cores must be said, and
# without --bind-to none it ties each of one or two ranks to a single core.
NP ?= 2
export OMPI_ALLOW_RUN_AS_ROOT=1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
MPIRUN = mpirun --oversubscribe --bind-to none

deps:                                   ## installs what is needed (Debian, Ubuntu) or says what is missing
	@.ci/deps

demo: deps                              ## sets up, builds, runs the demo sweep, shows summary and plot
	@$(MAKE) --no-print-directory llq_sweep
	@mkdir -p build/demo
	$(MPIRUN) -np $(NP) ./llq_sweep --force -o build/demo/results.h5 sweeps/demo.toml
	@$(MAKE) --no-print-directory demo-plot

demo-plot:
	$(PYTHON) analysis/report.py build/demo/results.h5 -o build/demo

test: deps                              ## sets up and passes every test that needs no GPU
	@$(MAKE) --no-print-directory llq_sweep tests layers $(FAULT_HELPERS)
	@LLQ_BUILD=$(BUILD) LLQ_TEST_SHORT=1 LLQ_TEST_KILLS=15 tests/run.sh tests/faults/injected.sh \
	    tests/faults/kills.sh $(filter-out tests/mpi/common.sh,$(wildcard tests/mpi/*.sh)) $(TESTS)

fault-test: deps                        ## 500 kills at random moments (half an hour), and every injected fault
	@$(MAKE) --no-print-directory llq_sweep $(FAULT_HELPERS)
	LLQ_BUILD=$(BUILD) tests/faults/injected.sh
	LLQ_BUILD=$(BUILD) LLQ_TEST_KILLS=500 tests/faults/kills.sh

test-golden: llq_sweep $(GOLDEN_TESTS)  ## compares with the reference vectors, one line a file
	@LLQ_BUILD=$(BUILD) tests/golden.sh $(GOLDEN_TESTS)

debug:                                  ## builds and tests with AddressSanitizer and UBSan
	@$(MAKE) --no-print-directory CUDA=0 SAN=address,undefined tests
	@LLQ_BUILD=build/cpu-san tests/run.sh $(patsubst tests/%.c,build/cpu-san/tests/%,$(wildcard tests/test_*.c))

layers:                                 ## includes point downward only; headers compile alone (but templates)
	@awk -f tests/layers.awk $(wildcard src/*.[ch] src/*/*.[ch] src/*/*.cpp cuda/*.cu cuda/*.cuh)
	@for h in $(filter-out %_body.h %/cpu/vector.h,$(wildcard src/*.h src/*/*.h)); do \
	    $(CC) -std=gnu17 -D_GNU_SOURCE $(WARN) $(PC_CFLAGS) -Isrc -fsyntax-only -include $$h -x c /dev/null || exit 1; done

install: llq_sweep                      ## into $(DESTDIR)$(PREFIX)
	install -D -m 755 llq_sweep $(DESTDIR)$(PREFIX)/bin/llq_sweep
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/llq_sweep/sweeps sweeps/*.toml sweeps/README.md
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/llq_sweep/sweeps/configs sweeps/configs/*.json
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/llq_sweep/sweeps/demo \
	    $(filter-out %.py,$(wildcard sweeps/demo/*.*))
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/share/llq_sweep/analysis $(wildcard analysis/*.py)
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/llq_sweep/analysis analysis/reference_study.csv
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/llq_sweep/slurm slurm/*

# Programs that need a device.  They are built anywhere with nvcc; gpu-bundle puts them, what they
# load and the reference vectors into one folder that runs on a GPU host without our packages.
GPU_TOO   := $(patsubst %,$(BUILD)/gpu/%,test_choice test_divergence test_eval_demo test_forward_golden \
             test_generate test_gptq test_gptq_golden test_methods_golden test_parts test_quantizers_golden \
             test_rtn_golden test_same_bits)# of the CPU's tests
GPU_TESTS := $(patsubst tests/gpu/%.c,$(BUILD)/gpu/%,$(wildcard tests/gpu/*.c)) \
             $(GPU_TOO)
GPU_BENCHES := $(addprefix $(BUILD)/gpu/,bench_points bench_calibrate bench_decode bench_eval bench_gemm bench_gptq \
               bench_group bench_linear bench_load bench_quantize bench_share make_model)
GPU_PROGRAMS = $(GPU_TESTS) $(GPU_BENCHES) $(BUILD)/gpu/llq_sweep
# What any Linux and the MPI of the other machine bring themselves.
GPU_THERE = ld-linux|linux-vdso|lib(c|m|dl|rt|pthread|resolv|gcc_s|stdc\+\+|mpi|open-rte|open-pal|event_core-2.1|event_pthreads-2.1)\.so
GPU_GOLDEN ?= $(firstword $(LLQ_GOLDEN) $(wildcard ../shared/golden) tests/golden)

gpu-test: $(GPU_TESTS) llq_sweep        ## every kernel against the CPU engine, on a GPU; fails without one
	@tests/gpu/run.sh $(GPU_TESTS) $(wildcard tests/gpu/test_*.sh)

gpu-bundle: $(GPU_PROGRAMS)             ## the same for another machine, and llq_sweep with its demo, in build/gpu
	@rm -rf build/gpu && mkdir -p build/gpu/lib build/gpu/golden build/gpu/sweeps build/gpu/analysis build/gpu/tests/golden
	@cp -r tests/golden/choices* build/gpu/tests/golden
	@cp $(GPU_PROGRAMS) build/gpu && strip $(addprefix build/gpu/,$(notdir $(GPU_PROGRAMS)))
	@cp $(wildcard tests/gpu/*.sh) sweeps/configs/llama-3.2-1b.json build/gpu
	@cp -r sweeps/demo sweeps/configs $(wildcard sweeps/*.toml) build/gpu/sweeps
	@cp $(wildcard analysis/*.py) build/gpu/analysis
	@ldd $(GPU_PROGRAMS) | awk '$$3 ~ /^\// && $$1 !~ /$(GPU_THERE)/ { print $$3 }' \
	    | sort -u | xargs -r -I{} cp -L {} build/gpu/lib
	@cp -r $(wildcard $(addprefix $(GPU_GOLDEN)/,bnb_*.safetensors gptq* quantizer-vectors.json)) $(dir $(wildcard $(GPU_GOLDEN)/*/config.json)) build/gpu/golden
	@du -sh build/gpu

gpu-compare: $(addprefix $(BUILD)/gpu/,bench_points make_model) ## speed beside transformers (and bitsandbytes) on this GPU
	@[ -e build/compare/config.json ] || $(BUILD)/gpu/make_model sweeps/configs/llama-3.2-1b.json build/compare
	$(BUILD)/gpu/bench_points build/compare cuda 5 build/compare.csv
	python3 analysis/bench_transformers.py build/compare build/compare.csv

gpu-pack: gpu-bundle                    ## that folder as one file, build/gpu.tar.xz (20 MB)
	@tar -C build -cf - gpu | xz -T0 --lzma2=preset=4,dict=96MiB >build/gpu.tar.xz
	@du -h build/gpu.tar.xz

slurm-test: llq_sweep                   ## the batch scripts under a Slurm of one node that is started for it (10 minutes)
	tests/slurm/submit.sh

tests: $(TESTS)                         ## compiles every test program

help:                                   ## this list
	@sed -n 's/^\([a-z][a-z0-9_-]*\):.*##/\1:/p' Makefile

clean:                                  ## removes what was built
	rm -rf build llq_sweep

format:                                 ## clang-format over the sources
	clang-format -i $(wildcard src/*.[ch] src/*/*.[ch] src/*/*.cpp cuda/*.cu cuda/*.cuh \
	    tests/*.[ch] tests/*/*.[ch])

# The version's object is made anew when the commit changes.
$(BUILD)/commit-$(COMMIT):
	@mkdir -p $(@D) && rm -f $(BUILD)/commit-* && touch $@
$(BUILD)/src/cli_version.o: $(BUILD)/commit-$(COMMIT)
$(BUILD)/src/cli_version.o: CFLAGS += -DLLQ_VERSION='"$(VERSION)"' -DLLQ_COMMIT='"$(COMMIT)"'

# It says what it was compiled for.
$(BUILD)/cuda/backend_cuda.o: NVFLAGS += -DLLQ_CUDA_ARCH='"$(strip $(foreach a,$(CUDA_ARCH:90=90a),sm_$a) $(CUDA_PTX:%=compute_%))"'

# V=1 shows the whole commands.
ifneq ($(V),1)
  SAY = @printf '  %-5s %s\n'
  Q   = @
else
  SAY = @:
endif

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(SAY) CC $<
	$(Q)$(CC) $(CFLAGS) -c $< -o $@
$(BUILD)/%.o: %.cpp
	@mkdir -p $(@D)
	$(SAY) CXX $<
	$(Q)$(CXX) $(CXXFLAGS) -c $< -o $@
$(BUILD)/%.o: %.cu
	@mkdir -p $(@D)
	$(SAY) NVCC $<
	$(Q)$(NVCC) $(NVFLAGS) -c $< -o $@
$(BUILD)/tests/%: tests/%.c tests/check.h $(LIB)
	@mkdir -p $(@D)
	$(SAY) TEST $<
	$(Q)$(CC) $(CFLAGS) -Itests $< $(LIB) $(LDLIBS) -lcmocka -o $@
$(BUILD)/gpu/%: tests/gpu/%.c tests/gpu/twin.h tests/forms.h tests/ops.h tests/check.h $(LIB)
	@mkdir -p $(@D)
	$(SAY) TEST $<
	$(Q)$(GPU_LINK)
$(GPU_TOO): $(BUILD)/gpu/%: tests/%.c tests/check.h $(LIB)
	@mkdir -p $(@D)
	$(SAY) TEST $<
	$(Q)$(GPU_LINK)
$(GPU_BENCHES): $(BUILD)/gpu/%: tests/bench/%.c $(LIB)
	@mkdir -p $(@D)
	$(SAY) BENCH $<
	$(Q)$(GPU_LINK)
$(BUILD)/gpu/llq_sweep: $(BUILD)/src/main.o $(LIB)
	@mkdir -p $(@D)
	$(SAY) LINK $@
	$(Q)$(CC) $(BUILD)/src/main.o $(LIB) -Wl,--as-needed $(LDLIBS) $(BESIDE) -o $@
$(BUILD)/bench/%: tests/bench/%.c $(LIB)
	@mkdir -p $(@D)
	$(SAY) BENCH $<
	$(Q)$(CC) $(CFLAGS) -Itests $(CUDA_INCLUDE) $< $(LIB) $(LDLIBS) -o $@

$(BUILD)/faults/strike: tests/faults/strike.c
	@mkdir -p $(@D)
	$(SAY) TEST $<
	$(Q)gcc -std=gnu17 -D_GNU_SOURCE $(WARN) -O2 $< -o $@
$(BUILD)/faults/jump.so: tests/faults/jump.c
	@mkdir -p $(@D)
	$(SAY) TEST $<
	$(Q)gcc -std=gnu17 -D_GNU_SOURCE $(WARN) -O2 -shared -fPIC $< -o $@

benches: $(BENCHES)                     ## compiles the benchmark programs

-include $(OBJ:.o=.d) $(BUILD)/src/main.d $(TESTS:=.d) $(GPU_TESTS:=.d) $(BENCHES:=.d)
.PHONY: FORCE all deps demo demo-plot test fault-test slurm-test test-golden gpu-test gpu-bundle debug layers install tests \
        gpu-compare gpu-pack benches help clean format
