/* test_sweep_file.c - what a sweep file may hold, and the one line for each fault. */
#include "sweep_help.h"

#include "base/rng.h"
#include "sweep/keys.h"
#include "sweep/method.h"

static const struct {
    const char *text, *message;
} bad[] = {
    /* names of keys */
    { SWEEP "sedes = [1]\n" MODEL BASE,
      "t.toml:3: sweep.sedes = [1]: unknown key; the nearest known key is sweep.seeds" },
    { SWEEP MODEL "pth = 'x'\n" BASE,
      "t.toml:5: model.pth = \"x\": unknown key; the nearest known key is model.path" },
    { SWEEP MODEL "[run]\nseeds = 3\n" BASE,
      "t.toml:6: run.seeds = 3: unknown key; the nearest known key is sweep.seeds" },
    { "seeds = [0]\n" MODEL BASE,
      "t.toml:1: seeds = [0]: unknown key; the nearest known key is sweep.seeds" },
    { SWEEP MODEL "[task.coqa]\npath = 'x'\n" BASE,
      "t.toml:5: task: unknown key; the nearest known key is tasks" },
    { SWEEP MODEL "[tasks.cqoa]\npath = 'x'\n" BASE,
      "t.toml:5: tasks.cqoa: unknown key; the nearest known key is tasks.coqa" },
    { SWEEP MODEL "[tasks.coqa]\npath = 'x'\nlimits = 1\n" BASE,
      "t.toml:7: tasks.coqa.limits = 1: unknown key; the nearest known key is tasks.coqa.limit" },
    { SWEEP MODEL BASE "bist = 4\n",
      "t.toml:8: experiment.bist = 4: unknown key; the nearest known key is experiment.bits" },
    { SWEEP "\"a\\nb\" = 1\n" MODEL BASE,
      "t.toml:3: sweep.a\\nb = 1: unknown key; the nearest known key is sweep.name" },
    /* types and values */
    { "[sweep]\nseeds = 'x'\n" MODEL BASE,
      "t.toml:2: sweep.seeds = \"x\": must be a list of 1 to 64 different integers, each from 0 "
      "to 2^53" },
    { "[sweep]\nseeds = []\n" MODEL BASE,
      "t.toml:2: sweep.seeds = []: must be a list of 1 to 64 different integers, each from 0 to "
      "2^53" },
    { "[sweep]\nseeds = [0, 1, 0]\n" MODEL BASE,
      "t.toml:2: sweep.seeds = [0, 1, 0]: must be a list of 1 to 64 different integers, each from "
      "0 to 2^53" },
    { "[sweep]\nseeds = [-1]\n" MODEL BASE,
      "t.toml:2: sweep.seeds = [-1]: must be a list of 1 to 64 different integers, each from 0 to "
      "2^53" },
    { "[sweep]\nseeds = [0.5]\n" MODEL BASE,
      "t.toml:2: sweep.seeds = [0.5]: must be a list of 1 to 64 different integers, each from 0 "
      "to 2^53" },
    { "[sweep]\nname = 'a'\n" MODEL BASE,
      "t.toml:1: sweep.seeds: is missing; it must be a list of 1 to 64 different integers, each "
      "from 0 to 2^53" },
    { MODEL BASE,
      "t.toml:1: sweep.seeds: is missing; it must be a list of 1 to 64 different integers, each "
      "from 0 to 2^53" },
    { SWEEP "name = 'a b'\n" MODEL BASE,
      "t.toml:3: sweep.name = \"a b\": must be 1 to 64 letters, digits, `_`, `.` or `-`" },
    { SWEEP "confidence = 1\n" MODEL BASE,
      "t.toml:3: sweep.confidence = 1: must be a number above 0 and below 1" },
    { SWEEP "confidence = nan\n" MODEL BASE,
      "t.toml:3: sweep.confidence = nan: must be a number above 0 and below 1" },
    { SWEEP "confidence = '95%'\n" MODEL BASE,
      "t.toml:3: sweep.confidence = \"95%\": must be a number above 0 and below 1" },
    { SWEEP "job_timeout = 0\n" MODEL BASE,
      "t.toml:3: sweep.job_timeout = 0: must be a number of seconds above 0, at most 1e9" },
    { SWEEP "job_timeout = inf\n" MODEL BASE,
      "t.toml:3: sweep.job_timeout = inf: must be a number of seconds above 0, at most 1e9" },
    { SWEEP "margin = { coqa_f = 0.1 }\n" MODEL BASE,
      "t.toml:3: sweep.margin.coqa_f = 0.1: unknown key; the nearest known key is "
      "sweep.margin.coqa_f1" },
    { SWEEP "margin = { coqa_f1 = -0.1 }\n" MODEL BASE,
      "t.toml:3: sweep.margin.coqa_f1 = -0.1: must be a number from 0 to 1" },
    { SWEEP "margin = 0.1\n" MODEL BASE,
      "t.toml:3: sweep.margin = 0.1: must be a table from metric to number" },
    { SWEEP BASE, "t.toml:1: model.path: is missing; it must be a folder, or a hub id such as "
                  "\"meta-llama/Llama-3.2-1B\"" },
    { SWEEP "[model]\npath = ''\n" BASE,
      "t.toml:4: model.path = \"\": must be a folder, or a hub id such as "
      "\"meta-llama/Llama-3.2-1B\"" },
    { SWEEP MODEL "source_dtype = 'fp8'\n" BASE,
      "t.toml:5: model.source_dtype = \"fp8\": must be one of stored, fp16, bf16, fp32" },
    { SWEEP MODEL "[run]\nbatch_size = -1\n" BASE,
      "t.toml:6: run.batch_size = -1: must be an integer from 0 to 4096 (0 = from free memory)" },
    { SWEEP MODEL "[run]\nbatch_size = 1.0\n" BASE,
      "t.toml:6: run.batch_size = 1.0: must be an integer from 0 to 4096 (0 = from free memory)" },
    { SWEEP MODEL "[tasks]\nprofile = 'lm-eval'\n" BASE,
      "t.toml:6: tasks.profile = \"lm-eval\": must be one of lm-eval-0.4.12, lm-eval-0.4.9, "
      "official-coqa" },
    { SWEEP MODEL "[tasks.coqa]\nlimit = 3\n" BASE,
      "t.toml:5: tasks.coqa.path: is missing; it must be a file in CoQA's JSON form" },
    { SWEEP MODEL "[tasks.coqa]\npath = 'x'\nlimit = -3\n" BASE,
      "t.toml:7: tasks.coqa.limit = -3: must be an integer of at least 0 (0 = all)" },
    { SWEEP MODEL "[tasks.coqa]\npath = 'x'\nsubset = 'last'\n" BASE,
      "t.toml:7: tasks.coqa.subset = \"last\": must be one of first, random" },
    { SWEEP MODEL "[tasks.coqa]\npath = 'x'\nnum_fewshot = 5\n" BASE,
      "t.toml:7: tasks.coqa.num_fewshot = 5: must be 0" },
    { SWEEP MODEL "[tasks]\ncoqa = 'x'\n" BASE, "t.toml:6: tasks.coqa = \"x\": must be a table" },
    { SWEEP MODEL "[tasks.perplexity]\npath = 'x'\nwindow = 1\n" BASE,
      "t.toml:7: tasks.perplexity.window = 1: must be an integer from 2 to 1048576" },
    { SWEEP MODEL "[tasks.sanity]\non_broken = 'stop'\n" BASE,
      "t.toml:6: tasks.sanity.on_broken = \"stop\": must be one of warn, skip" },
    { SWEEP MODEL "[benchmark]\nrepeats = 0\n" BASE,
      "t.toml:6: benchmark.repeats = 0: must be an integer from 1 to 1000000" },
    { SWEEP MODEL "[benchmark]\nprefill_tokens = 512\n" BASE,
      "t.toml:6: benchmark.prefill_tokens = 512: must be a list of 1 to 16 different integers, "
      "each from 1 to 1048576" },
    { SWEEP MODEL "[benchmark]\nbatch_sizes = [1, 4, 1]\n" BASE,
      "t.toml:6: benchmark.batch_sizes = [1, 4, 1]: must be a list of 1 to 16 different integers, "
      "each from 1 to 4096" },
    { SWEEP MODEL "[benchmark]\nenergy = 1\n" BASE,
      "t.toml:6: benchmark.energy = 1: must be true or false" },
    { "sweep = 3\n" MODEL BASE, "t.toml:1: sweep = 3: must be a table" },
    { "[[sweep]]\nseeds = [0]\n" MODEL BASE, "t.toml:1: sweep: must be a table" },
    /* experiments */
    { SWEEP MODEL, "t.toml: experiment: the file has no [[experiment]]; at least one is needed" },
    { SWEEP MODEL "[experiment]\nname = 'a'\nmethod = 'none'\n",
      "t.toml:5: experiment: must be written [[experiment]], once for each block" },
    { SWEEP MODEL "[[experiment]]\nmethod = 'none'\n",
      "t.toml:5: experiment.name: is missing; it must be 1 to 64 letters, digits, `_`, `.` or "
      "`-`" },
    { SWEEP MODEL "[[experiment]]\nname = 'a/b'\nmethod = 'none'\n",
      "t.toml:6: experiment.name = \"a/b\": must be 1 to 64 letters, digits, `_`, `.` or `-`" },
    { SWEEP MODEL "[[experiment]]\nname = 'a'\n",
      "t.toml:5: experiment.a.method: is missing; it must be one of none, bnb_8bit, bnb_4bit, "
      "rtn, hqq, gptq, awq" },
    { SWEEP MODEL "[[experiment]]\nname = 'a'\nmethod = 'rnt'\n",
      "t.toml:7: experiment.a.method = \"rnt\": must be one of none, bnb_8bit, bnb_4bit, rtn, "
      "hqq, gptq, awq" },
    { SWEEP MODEL "[[experiment]]\nname = 'a'\nmethod = 'rtn'\nbits = []\n",
      "t.toml:8: experiment.a.bits = []: the list is empty; each of its values must be an integer "
      "from 2 to 32" },
    { SWEEP MODEL "[[experiment]]\nname = 'a'\nmethod = 'rtn'\nbits = [4, 3, 4]\n",
      "t.toml:8: experiment.a.bits = [4, 3, 4]: holds the same value twice" },
    { SWEEP MODEL "[[experiment]]\nname = 'a'\nmethod = 'rtn'\nbits = 4.0\n",
      "t.toml:8: experiment.a.bits = 4.0: must be an integer from 2 to 32" },
    { SWEEP MODEL "[[experiment]]\nname = 'a'\nmethod = 'rtn'\nbits = [[4]]\n",
      "t.toml:8: experiment.a.bits = [4]: must be an integer from 2 to 32" },
    { SWEEP MODEL "[[experiment]]\nname = 'a'\nmethod = 'rtn'\nbits = [\n4,\n'3']\n",
      "t.toml:10: experiment.a.bits = \"3\": must be an integer from 2 to 32" },
    { SWEEP MODEL "[[experiment]]\nname = 'a'\nmethod = 'rtn'\nskip_modules = 'lm_head'\n",
      "t.toml:8: experiment.a.skip_modules = \"lm_head\": must be a list of at most 8 module names "
      "of 1 to 63 bytes (for a grid, a list of such lists)" },
    /* values no row of the table allows, alone on their axis */
    { SWEEP MODEL BASE "bits = 8\n", "t.toml:8: experiment.base.bits = 8: none allows 16, 32" },
    { SWEEP MODEL BASE "bits = 32\n", "t.toml:8: experiment.base.bits = 32: fp16 has 16 bits" },
    { SWEEP MODEL BASE "group_size = 64\n",
      "t.toml:8: experiment.base.group_size = 64: method none has no group_size" },
    { SWEEP MODEL "[[experiment]]\nname = 'a'\nmethod = 'bnb_4bit'\nbits = 3\n",
      "t.toml:8: experiment.a.bits = 3: bnb_4bit allows 4" },
    { SWEEP MODEL "[[experiment]]\nname = 'a'\nmethod = 'bnb_4bit'\ngroup_size = [48]\n",
      "t.toml:8: experiment.a.group_size = [48]: bnb_4bit allows 32, 64, 128, 256, 512, 1024, "
      "2048, 4096" },
    { SWEEP MODEL "[[experiment]]\nname = 'a'\nmethod = 'bnb_4bit'\nquant_type = 'int'\n",
      "t.toml:8: experiment.a.quant_type = \"int\": bnb_4bit allows nf4, fp4" },
    { SWEEP MODEL "[[experiment]]\nname = 'a'\nmethod = 'bnb_8bit'\ngrid = 'awq'\n",
      "t.toml:8: experiment.a.grid = \"awq\": method bnb_8bit has no grid" },
    { SWEEP MODEL "[[experiment]]\nname = 'a'\nmethod = 'rtn'\ngroup_size = 0\n",
      "t.toml:8: experiment.a.group_size = 0: rtn allows every divisor of the layers' widths, and "
      "-1 (one group per row); 0 (one for the whole matrix) goes with fp8_e4m3" },
    { SWEEP MODEL "[[experiment]]\nname = 'a'\nmethod = 'rtn'\ngroup_size = -2\n",
      "t.toml:8: experiment.a.group_size = -2: must be an integer of at least 1, -1 (one group "
      "per row), or 0 (fp8_e4m3: the matrix)" },
    { SWEEP MODEL "tensor_parallel = 3\n" BASE,
      "t.toml:5: model.tensor_parallel = 3: must be one of 1, 2, 4, 8" },
    { SWEEP MODEL "tensor_parallel = '2'\n" BASE,
      "t.toml:5: model.tensor_parallel = \"2\": must be one of 1, 2, 4, 8" },
    { SWEEP MODEL "[calibration]\nsamples = 3\n" BASE,
      "t.toml:5: calibration.path: is missing; it must be a text file (.txt, .raw, .jsonl) or a "
      ".safetensors file of token ids" },
    { SWEEP MODEL "[calibration]\npath = 'x'\nsamples = -1\n" BASE,
      "t.toml:7: calibration.samples = -1: must be an integer of at least 0 (0 = by method)" },
    { SWEEP MODEL BASE "[[comparison]]\na = 'base'\n",
      "t.toml:8: comparison.b: is missing; it must be the name of an experiment" },
    { SWEEP MODEL BASE "[comparison]\na = 'base'\n",
      "t.toml:8: comparison: must be written [[comparison]], once for each pair" },
    { SWEEP MODEL BASE "[[comparison]]\na = 'base'\nb = 'x'\nc = 1\n",
      "t.toml:11: comparison.c = 1: unknown key; the nearest known key is comparison.a" },
    { SWEEP MODEL "[tasks.divergence]\n" BASE,
      "t.toml:5: tasks.divergence: needs [tasks.perplexity], whose text it runs on" },
    { SWEEP MODEL "[tasks.perplexity]\npath = 'x'\nprotocol = 'ptb'\n" BASE,
      "t.toml:7: tasks.perplexity.protocol = \"ptb\": must be one of gptq, lm_eval, llama_cpp" },
    { SWEEP MODEL "[tasks.multiple_choice]\n" BASE,
      "t.toml:5: tasks.multiple_choice: names no data set: it wants tables such as "
      "[tasks.multiple_choice.hellaswag]" },
    { SWEEP MODEL "[tasks.multiple_choice.hellaswig]\npath = 'x'\n" BASE,
      "t.toml:5: tasks.multiple_choice.hellaswig: unknown key; the nearest known key is "
      "tasks.multiple_choice.hellaswag" },
    { SWEEP MODEL "[tasks.multiple_choice.piqa]\nlimit = 3\n" BASE,
      "t.toml:5: tasks.multiple_choice.piqa.path: is missing; it must be the data set's own file" },
    { SWEEP MODEL "[[experiment]]\nname = 'a'\nmethod = 'awq'\ngroup_size = 16\n",
      "t.toml:8: experiment.a.group_size = 16: awq allows divisors from 32 to 1024, and -1" },
    { SWEEP MODEL "[[experiment]]\nname = 'a'\nmethod = 'gptq'\npreset = 'itz'\n",
      "t.toml:8: experiment.a.preset = \"itz\": must be one of reference, ist, autogptq, "
      "transformers, gptqmodel, llm-compressor" },
    { SWEEP MODEL "[[experiment]]\nname = 'a'\nmethod = 'rtn'\npreset = 'ist'\n",
      "t.toml:8: experiment.a.preset = \"ist\": method rtn has no preset" },
    { SWEEP MODEL "[[experiment]]\nname = 'a'\nmethod = 'gptq'\ngroup_size = 8\n",
      "t.toml:8: experiment.a.group_size = 8: gptq allows divisors from 16 to 1024, and -1" },
    { SWEEP MODEL "[[experiment]]\nname = 'a'\nmethod = 'gptq'\ngar = true\ndesc_act = true\n",
      "t.toml:8: experiment.a.gar = true: goes with neither desc_act nor static_groups" },
    { SWEEP MODEL "[[experiment]]\nname = 'a'\nmethod = 'gptq'\ndamp_percent = 1.5\n",
      "t.toml:8: experiment.a.damp_percent = 1.5: must be a number from 0 to 0.99" },
    { SWEEP MODEL "[[experiment]]\nname = 'a'\nmethod = 'rtn'\nquant_type = 'mxfp4'\nsym = true\n",
      "t.toml:9: experiment.a.sym = true: mxfp4 has no sym" },
    { SWEEP MODEL
      "[[experiment]]\nname = 'a'\nmethod = 'rtn'\nquant_type = 'mxfp4'\ngroup_size = 64\n",
      "t.toml:9: experiment.a.group_size = 64: mxfp4 has groups of 32" },
    { SWEEP MODEL "[[experiment]]\nname = 'a'\nmethod = 'rtn'\nquant_type = 'nf3'\nbits = 4\n",
      "t.toml:9: experiment.a.bits = 4: nf3 has 3 bits" },
    { SWEEP MODEL
      "[[experiment]]\nname = 'a'\nmethod = 'rtn'\nquant_type = 'nvfp4'\ndouble_quant = true\n",
      "t.toml:9: experiment.a.double_quant = true: the scales of nvfp4 have 8 bits already" },
};

static void every_fault_has_its_line(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_refusal(bad[i].text, NULL, bad[i].message);
}

static void a_missing_or_huge_file_is_refused(void **state)
{
    (void)state;
    struct sweep s;
    struct err e = ERR_INIT;

    CHECK(sweep_read("nowhere.toml", NULL, &s, &e) < 0, "a missing file is refused");
    CHECK(!strcmp(e.text, "nowhere.toml: No such file or directory"), "by name: %s", e.text);
    CHECK(e.code == ERR_USAGE, "as the user's fault");
    CHECK(sweep_read(".", NULL, &s, &e) < 0, "a folder is refused: %s", e.text);

    char *text = mem_alloc((1 << 20) + 2);
    memset(text, '\n', (1 << 20) + 1);
    memcpy(text, SWEEP MODEL BASE, strlen(SWEEP MODEL BASE));
    expect_refusal(text, NULL, "t.toml: has 1048577 bytes, a sweep file may have 1048576");
    text[1 << 20] = 0;
    CHECK_OK(expand_of(text, NULL, &s, &e), e);
    CHECK(s.text_bytes == 1 << 20, "1 MiB is read, and kept verbatim");
    sweep_release(&s);
    free(text);
}

static void defaults_are_those_of_the_contract(void **state)
{
    (void)state;
    struct sweep s;
    struct err e = ERR_INIT;

    CHECK_OK(expand_of(SWEEP MODEL BASE "[tasks.sanity]\n[tasks.coqa]\npath = 'c.json'\n"
                                        "[tasks.perplexity]\npath = '/p.txt'\n[benchmark]\n",
                       NULL, &s, &e),
             e);
    CHECK(!strcmp(s.name, "t"), "the file's name is the sweep's");
    CHECK(!strcmp(s.baseline, "base"), "the first `none` is the baseline");
    CHECK(s.confidence == 0.95 && s.job_timeout_s == 3600, "95 %% and an hour");
    CHECK(s.n_margins == 6 && !strcmp(s.margins[2].metric, "perplexity") &&
              s.margins[0].value == 0.01,
          "six margins of 0.01");
    CHECK(!strcmp(s.model_path, "org/model") && !s.model_config, "a hub id stays as it is");
    CHECK(!strcmp(s.model_revision, "main") && !strcmp(s.source_dtype, "stored"), "main, stored");
    CHECK(s.batch_size == 0 && !s.benchmark_per_seed, "0 and false");

    char *here = file_absolute(".");
    struct js *setup = sweep_setup_js(&s);
    char *text = js_write(setup, NULL);
    struct bytes want = BYTES_INIT;
    bytes_printf(&want,
                 "{\"model\":{\"path\":\"org/model\",\"revision\":\"main\",\"source_dtype\":"
                 "\"stored\",\"tensor_parallel\":1},\"run\":{\"batch_size\":0},\"profile\":\"lm-"
                 "eval-0.4.12\","
                 "\"tasks\":{\"sanity\":{\"on_broken\":\"warn\"},\"coqa\":{\"path\":\"%s/c.json\","
                 "\"limit\":0,\"subset\":\"first\",\"turns\":\"last\",\"num_fewshot\":0},"
                 "\"perplexity\":{\"path\":\"/p.txt\",\"protocol\":\"gptq\",\"window\":2048}},"
                 "\"benchmark\":{\"warmup\":3,\"repeats\":10,\"warmup_seconds\":1.0,"
                 "\"min_seconds\":1.0,\"prefill_tokens\":[512],\"decode_tokens\":128,"
                 "\"batch_sizes\":[1,4,8],\"energy\":true}}",
                 here);
    CHECK(!strcmp(text, want.data), "the engines get\n%s\nnot\n%s", want.data, text);
    bytes_release(&want);
    free(text);
    free(here);
    js_release(setup);
    sweep_release(&s);
    sweep_release(&s);
}

static void paths_start_where_they_were_written(void **state)
{
    (void)state;
    struct sweep s;
    struct err e = ERR_INIT;
    char *here = file_absolute(".");
    char want[200];

    CHECK(mkdir("sub", 0700) == 0 && mkdir("sub/model", 0700) == 0, "folders can be made");
    FILE *f = fopen("sub/t.toml", "w");
    fputs(SWEEP "[model]\npath = 'model/'\nconfig = '../c.json'\n[tasks.perplexity]\n"
                "path = 'p.txt'\n" BASE,
          f);
    fclose(f);
    CHECK_OK(sweep_read("sub/t.toml", NULL, &s, &e), e);
    snprintf(want, sizeof want, "%s/sub/model", here);
    CHECK(!strcmp(s.model_path, want), "a folder beside the file: %s", s.model_path);
    snprintf(want, sizeof want, "%s/c.json", here);
    CHECK(!strcmp(s.model_config, want), "above the file: %s", s.model_config);
    snprintf(want, sizeof want, "%s/sub/p.txt", here);
    CHECK(!strcmp(js_text(js_get(js_get(s.tasks, "perplexity"), "path")), want), "data, too");
    sweep_release(&s);

    const char *set[] = { "model.path=sub/model", "tasks.perplexity.path=p.txt" };
    struct sweep_overrides o = { .limit = -1, .n_set = 2, .set = set };
    CHECK_OK(sweep_read("sub/t.toml", &o, &s, &e), e);
    snprintf(want, sizeof want, "%s/sub/model", here);
    CHECK(!strcmp(s.model_path, want), "--set starts in the working folder: %s", s.model_path);
    snprintf(want, sizeof want, "%s/p.txt", here);
    CHECK(!strcmp(js_text(js_get(js_get(s.tasks, "perplexity"), "path")), want), "data, too");
    sweep_release(&s);

    set[0] = "model.path=./absent";
    o.n_set = 1;
    CHECK_OK(sweep_read("sub/t.toml", &o, &s, &e), e);
    snprintf(want, sizeof want, "%s/absent", here);
    CHECK(!strcmp(s.model_path, want), "what cannot be a hub id is a folder: %s", s.model_path);
    sweep_release(&s);
    CHECK(unlink("sub/t.toml") == 0 && rmdir("sub/model") == 0 && rmdir("sub") == 0, "cleaned up");
    free(here);
}

static void set_overrides_one_key(void **state)
{
    (void)state;
    struct sweep s;
    struct err e = ERR_INIT;
    const char *set[] = { "sweep.name=from_line",
                          "sweep.confidence=0.9",
                          "sweep.seeds=[4, 5]",
                          "sweep.margin.coqa_f1=0.5",
                          "model.revision=\"v#1\"",
                          "model.path=some#where",
                          "run.batch_size=7",
                          "tasks.sanity.on_broken=skip",
                          "experiment.base.compute_dtype=bf16",
                          "experiment.base.compute_dtype=['fp16', 'bf16']",
                          "benchmark.prefill_tokens=[8]" };
    struct sweep_overrides o = { .limit = -1, .n_set = 11, .set = set };

    CHECK_OK(expand_of(SWEEP MODEL BASE, &o, &s, &e), e);
    CHECK(!strcmp(s.name, "from_line"), "a bare word is a text");
    CHECK(s.confidence == 0.9 && s.n_seeds == 2 && s.seeds[1] == 5, "numbers and lists are TOML");
    CHECK(s.margins[0].value == 0.5 && s.margins[1].value == 0.01, "one margin alone changes");
    CHECK(!strcmp(s.model_revision, "v#1"), "a quoted text is TOML");
    CHECK(!strcmp(s.model_path + strlen(s.model_path) - 10, "some#where"), "# starts no comment");
    CHECK(s.batch_size == 7, "a section that the file does not have is made");
    CHECK(!strcmp(js_text(js_get(js_get(s.tasks, "sanity"), "on_broken")), "skip"), "also a task");
    CHECK(s.benchmark && js_int(js_at(js_get(s.benchmark, "prefill_tokens"), 0)) == 8,
          "and a benchmark");
    CHECK(s.n_experiments == 2 && !strcmp(s.experiments[1].name, "base_bf16"),
          "the last --set of a key wins, and a list makes a grid");
    sweep_release(&s);
}

static void a_wrong_set_names_itself(void **state)
{
    (void)state;
    static const struct {
        const char *set, *message;
    } cases[] = {
        { "sweep.sedes=3", "unknown key; the nearest known key is sweep.seeds" },
        { "sedes=3", "unknown key; the nearest known key is sweep.seeds" },
        { "tasks.coq.limt=3", "unknown key; the nearest known key is tasks.coqa.limit" },
        { "run.batch_size=-1", "must be an integer from 0 to 4096 (0 = from free memory)" },
        { "run.batch_size=many", "must be an integer from 0 to 4096 (0 = from free memory)" },
        { "run.batch_size=3#4", "must be an integer from 0 to 4096 (0 = from free memory)" },
        { "sweep.name=", "must be 1 to 64 letters, digits, `_`, `.` or `-`" },
        { "sweep.seeds=[1", "the value is not valid TOML" },
        { "sweep.seeds=[1]\nb = 1", "the value is not valid TOML" },
        { "sweep", "must be KEY=VALUE" },
        { "=3", "must be KEY=VALUE" },
        { "model.tensor_parallel=16", "must be one of 1, 2, 4, 8" },
        { "calibration.samples=x", "must be an integer of at least 0 (0 = by method)" },
        { "tasks.multiple_choice.a.path=x", "unknown key; the nearest known key is model.path" },
        { "experiment.base=3", "must be experiment.NAME.KEY=VALUE" },
        { "experiment=3", "must be experiment.NAME.KEY=VALUE" },
        { "experiment.bas.bits=3",
          "the file has no [[experiment]] of this name; the nearest is base" },
        { "experiment.base.bits=8", "none allows 16, 32" },
        { "experiment.base.bist=8", "unknown key; the nearest known key is experiment.bits" },
        { "experiment.base.method=avq",
          "must be one of none, bnb_8bit, bnb_4bit, rtn, hqq, gptq, awq" },
        { "sweep.baseline=bse", "no experiment has this name; the nearest is base" },
        { "tasks.coqa.limit=3", "is missing; it must be a file in CoQA's JSON form" },
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *set[] = { "sweep.name=ok", cases[i].set };
        struct sweep_overrides o = { .limit = -1, .n_set = 2, .set = set };
        struct bytes message = BYTES_INIT;

        bytes_text(&message, "--set ");
        toml_show_text(cases[i].set, 200, &message);
        bytes_printf(&message, ": %s", cases[i].message);
        expect_refusal(SWEEP MODEL BASE, &o, message.data);
        bytes_release(&message);
    }
}

static void seeds_and_limit_of_the_command_line_win(void **state)
{
    (void)state;
    struct sweep s;
    struct err e = ERR_INIT;
    struct sweep_overrides o = { .has_seeds = true, .n_seeds = 2, .seeds = { 8, 9 }, .limit = 5 };
    const char *text = "[sweep]\n" MODEL BASE "[tasks.coqa]\npath = 'c'\nlimit = 3\n";

    CHECK_OK(expand_of(text, &o, &s, &e), e);
    CHECK(s.n_seeds == 2 && s.seeds[0] == 8 && s.seeds[1] == 9, "--seeds, also where none stand");
    CHECK(js_int(js_get(js_get(s.tasks, "coqa"), "limit")) == 5, "--limit replaces the limit");
    sweep_release(&s);
    o.limit = 0;
    CHECK_OK(expand_of(text, &o, &s, &e), e);
    CHECK(js_int(js_get(js_get(s.tasks, "coqa"), "limit")) == 0, "--limit 0 means all");
    sweep_release(&s);
    o.limit = 7;
    text = "[sweep]\n" MODEL BASE "[tasks.multiple_choice.piqa]\npath = 'c'\nlimit = 3\n"
           "[tasks.multiple_choice.boolq]\npath = '/d'\nsubset = 'random'\n";
    CHECK_OK(expand_of(text, &o, &s, &e), e);
    CHECK(js_int(js_find(s.tasks, "multiple_choice.piqa.limit")) == 7 &&
              js_int(js_find(s.tasks, "multiple_choice.boolq.limit")) == 7,
          "--limit also of each data set");
    CHECK(strcmp(js_text(js_find(s.tasks, "multiple_choice.boolq.path")), "/d") == 0 &&
              js_text(js_find(s.tasks, "multiple_choice.piqa.path"))[0] == '/',
          "paths are absolute");
    CHECK(sweep_seed_matters(&s, &s.experiments[0]),
          "a data set drawn by the seed makes it matter");
    sweep_release(&s);
}

/* Every key stands in sweeps/README.md with its default and what is allowed, and no key or word
 * of a later version does. */
static char *readme_text;
static char *demo_text;

static const char *without_quotes(const char *json)
{
    static char text[64];

    snprintf(text, sizeof text, "%s", json ? json : "-");
    return text;
}

static void the_readme_knows_every_key(void **state)
{
    (void)state;
    int n_rows = 0;

    for (const struct key_section *s = key_sections + 1; s->name; s++)
        for (const struct key_rule *r = s->rules; r->name; r++) {
            struct bytes row = BYTES_INIT;
            if (r->type != KEY_TABLE) {
                bytes_printf(&row, "\n| `%s` | %s | %s |", r->name,
                             r->required ? "required" : without_quotes(r->standard), r->allowed);
                CHECK(strstr(readme_text, row.data), "sweeps/README.md has the row%s", row.data);
                n_rows++;
            }
            bytes_release(&row);
        }
    CHECK(n_rows > 30, "%d keys were looked for", n_rows);
    for (const struct method_rule *m = method_rules; m->name; m++) {
        struct bytes row = BYTES_INIT;
        bytes_printf(&row, "\n| `%s` |", m->name);
        CHECK(strstr(readme_text, row.data), "sweeps/README.md has a row for %s", m->name);
        bytes_release(&row);
    }
}

/* Mutations of demo.toml: each is read and expanded, or refused with one line.  The sanitizers
 * watch. */
static void broken_files_are_refused_with_a_reason(void **state)
{
    (void)state;
    enum { N_TRIALS = 1500 };
    size_t n = strlen(demo_text);
    int n_read = 0, n_refused = 0;
    static const char bits[] = "=[]{}\"'.,\n#-0019aestrue_";

    for (uint64_t t = 0; t < N_TRIALS; t++) {
        struct bytes text = BYTES_INIT;
        struct sweep s;
        struct err e = ERR_INIT;
        size_t at = rng_below(t, RNG_TEST, 0, n), length = rng_below(t, RNG_TEST, 1, 12);

        bytes_add(&text, demo_text, at);
        switch (rng_below(t, RNG_TEST, 2, 4)) {
        case 0: /* something left out */
            at += length;
            break;
        case 1: /* some characters put in */
            for (size_t i = 0; i <= length % 3; i++)
                bytes_add(&text, &bits[rng_below(t, RNG_TEST, 3 + i, sizeof bits - 1)], 1);
            break;
        case 2: { /* a bit turned over, the whole range of bytes */
            char c = (char)(demo_text[at] ^ (1 << rng_below(t, RNG_TEST, 3, 8)));
            bytes_add(&text, c ? &c : "?", 1);
            at++;
            break;
        }
        default: /* a piece from elsewhere */
            bytes_add(&text, demo_text + rng_below(t, RNG_TEST, 3, n - 12), length);
        }
        if (at < n)
            bytes_add(&text, demo_text + at, n - at);
        if (expand_of(text.data, NULL, &s, &e) == 0) {
            n_read++;
            sweep_release(&s);
        } else {
            n_refused++;
            CHECK(strlen(e.text) > 8 && !strchr(e.text, '\n'), "one line says why: %s", e.text);
            CHECK(!strncmp(e.text, "t.toml", 6), "and names the file: %s", e.text);
        }
        bytes_release(&text);
    }
    CHECK(n_read > 100 && n_refused > 100, "%d were read, %d refused", n_read, n_refused);
}

static char *text_of(const char *path)
{
    struct bytes text = BYTES_INIT;
    struct err e = ERR_INIT;

    return file_read(path, &text, &e) < 0 ? NULL : text.data;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fault_has_its_line),
        cmocka_unit_test(a_missing_or_huge_file_is_refused),
        cmocka_unit_test(defaults_are_those_of_the_contract),
        cmocka_unit_test(paths_start_where_they_were_written),
        cmocka_unit_test(set_overrides_one_key),
        cmocka_unit_test(a_wrong_set_names_itself),
        cmocka_unit_test(seeds_and_limit_of_the_command_line_win),
        cmocka_unit_test(the_readme_knows_every_key),
        cmocka_unit_test(broken_files_are_refused_with_a_reason),
    };

    readme_text = text_of("sweeps/README.md");
    demo_text = text_of("sweeps/demo.toml");
    if (!readme_text || !demo_text) {
        fprintf(stderr, "run from the root of the repository\n");
        return 1;
    }
    int rc = cmocka_run_group_tests(tests, sweep_folder_open, sweep_folder_close);
    free(readme_text);
    free(demo_text);
    return rc;
}
