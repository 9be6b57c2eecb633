/* device_facts.cu - what device this is and how it does: NVML, where it is there.
 *
 * NVML comes with the driver and is opened when it is first asked, so that the program starts
 * without either.  What it does not know stays unknown (NaN, an empty text, -1); nothing fails for
 * it.  It only reads: clocks and modes are never touched.  */
#include "common.cuh"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- NVML, as far as it is used; its types and names are stable ---- */

enum { NVML_SUCCESS = 0, NVML_INSUFFICIENT_SIZE = 7 };
enum { NVML_CLOCK_SM = 1, NVML_TEMPERATURE_GPU = 0 };

typedef struct nvmlDevice_st *nvml_device;

struct nvml_process {
    unsigned pid;
    unsigned long long memory_bytes;
    unsigned gpu_instance, compute_instance;
};

struct nvml_memory {
    unsigned long long total, free, used;
};

struct nvml {
    int (*nvmlInit_v2)(void);
    int (*nvmlShutdown)(void);
    int (*nvmlSystemGetDriverVersion)(char *, unsigned);
    int (*nvmlDeviceGetHandleByPciBusId_v2)(const char *, nvml_device *);
    int (*nvmlDeviceGetTotalEnergyConsumption)(nvml_device, unsigned long long *millijoule);
    int (*nvmlDeviceGetTemperature)(nvml_device, int sensor, unsigned *celsius);
    int (*nvmlDeviceGetClockInfo)(nvml_device, int clock, unsigned *mhz);
    int (*nvmlDeviceGetCurrentClocksThrottleReasons)(nvml_device, unsigned long long *bits);
    int (*nvmlDeviceGetComputeRunningProcesses_v3)(nvml_device, unsigned *n, struct nvml_process *);
    int (*nvmlDeviceGetMemoryInfo)(nvml_device, struct nvml_memory *);
};

struct cuda_monitor {
    void *library;
    struct nvml nvml;
    nvml_device device; /* NULL: NVML is not there or does not know it */
};

/* Functions that a driver lacks stay NULL. */
static void find_functions(struct cuda_monitor *m)
{
#define FIND(name) *(void **)&m->nvml.name = dlsym(m->library, #name)
    FIND(nvmlInit_v2);
    FIND(nvmlShutdown);
    FIND(nvmlSystemGetDriverVersion);
    FIND(nvmlDeviceGetHandleByPciBusId_v2);
    FIND(nvmlDeviceGetTotalEnergyConsumption);
    FIND(nvmlDeviceGetTemperature);
    FIND(nvmlDeviceGetClockInfo);
    FIND(nvmlDeviceGetCurrentClocksThrottleReasons);
    FIND(nvmlDeviceGetComputeRunningProcesses_v3);
    FIND(nvmlDeviceGetMemoryInfo);
#undef FIND
}

static void close_library(struct cuda_monitor *m)
{
    if (m->library)
        dlclose(m->library);
    m->library = NULL;
    m->device = NULL;
}

static void open_library(struct cuda_monitor *m, int device)
{
    char bus[32] = "";
    const struct nvml *f = &m->nvml;

    m->library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!m->library)
        return;
    find_functions(m);
    if (!f->nvmlInit_v2 || !f->nvmlShutdown || f->nvmlInit_v2() != NVML_SUCCESS) {
        close_library(m);
        return;
    }
    if (!f->nvmlDeviceGetHandleByPciBusId_v2 ||
        cudaDeviceGetPCIBusId(bus, sizeof bus, device) != cudaSuccess ||
        f->nvmlDeviceGetHandleByPciBusId_v2(bus, &m->device) != NVML_SUCCESS) {
        f->nvmlShutdown();
        close_library(m);
    }
}

/* Never NULL but where the host has no memory. */
static struct cuda_monitor *monitor_of(struct cuda_state *s)
{
    if (!s->monitor) {
        s->monitor = (struct cuda_monitor *)calloc(1, sizeof *s->monitor);
        if (s->monitor)
            open_library(s->monitor, s->device);
    }
    return s->monitor;
}

void cuda_monitor_close(struct cuda_monitor *m)
{
    if (m && m->library)
        m->nvml.nvmlShutdown();
    if (m)
        close_library(m);
    free(m);
}

/* ---- what it is ---- */

/* "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue ..." */
static bool read_driver(char *out, size_t size)
{
    FILE *f = fopen("/proc/driver/nvidia/version", "re");
    char line[512] = "";
    bool found = false;

    if (!f)
        return false;
    if (fgets(line, sizeof line, f))
        for (char *word = strtok(line, " \t\n"); word && !found; word = strtok(NULL, " \t\n")) {
            size_t n = strspn(word, "0123456789.");
            found = n > 3 && word[n] == 0 && strchr(word, '.');
            if (found)
                snprintf(out, size, "%s", word);
        }
    fclose(f);
    return found;
}

void cuda_name_device(struct cuda_state *s, const struct cudaDeviceProp *facts)
{
    const unsigned char *u = (const unsigned char *)facts->uuid.bytes;
    int at = snprintf(s->id, sizeof s->id, "GPU-");

    snprintf(s->name, sizeof s->name, "%.127s", facts->name);
    for (int i = 0; i < 16; i++)
        at += snprintf(s->id + at, sizeof s->id - (size_t)at, "%s%02x",
                       i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", u[i]);
    if (!read_driver(s->driver, sizeof s->driver)) {
        const struct cuda_monitor *m = monitor_of(s);
        if (m && m->device && m->nvml.nvmlSystemGetDriverVersion)
            m->nvml.nvmlSystemGetDriverVersion(s->driver, sizeof s->driver);
    }
}

int cuda_facts(struct backend *b, struct device_facts *out, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    size_t n_free, n_all;
    int runtime = 0;

    if (cuda_memory_facts(s, &n_free, &n_all, e) < 0)
        return -1;
    CUDA_TRY(cudaRuntimeGetVersion(&runtime));
    memset(out, 0, sizeof *out);
    memcpy(out->name, s->name, sizeof out->name);
    memcpy(out->id, s->id, sizeof out->id);
    memcpy(out->driver, s->driver, sizeof out->driver);
    snprintf(out->runtime, sizeof out->runtime, "%d.%d", runtime / 1000, runtime % 1000 / 10);
    out->memory_bytes = (int64_t)n_all;
    out->free_bytes = (int64_t)n_free;
    return 0;
}

/* ---- how it does ---- */

static void name_limits(unsigned long long bits, char *out, size_t size)
{
    static const struct {
        unsigned long long bit;
        const char *text;
    } names[] = {
        { 0x02, "clocks set by the operator" },
        { 0x04, "power cap" },
        { 0x08, "hardware slowdown" },
        { 0x10, "sync boost" },
        { 0x20, "heat" },
        { 0x40, "heat (hardware)" },
        { 0x80, "power brake" },
        { 0x100, "display clocks" },
    };
    size_t at = 0;

    /* Bit 0, idle, limits nothing that runs. */
    snprintf(out, size, "none");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (bits & names[i].bit && at < size)
            at += (size_t)snprintf(out + at, size - at, "%s%s", at ? ", " : "", names[i].text);
}

int cuda_energy(struct backend *b, double *joule, struct err *e)
{
    const struct cuda_monitor *m = monitor_of(cuda_state_of(b));
    unsigned long long millijoule = 0;

    (void)e;
    *joule = NAN;
    if (m && m->device && m->nvml.nvmlDeviceGetTotalEnergyConsumption &&
        m->nvml.nvmlDeviceGetTotalEnergyConsumption(m->device, &millijoule) == NVML_SUCCESS)
        *joule = 1e-3 * (double)millijoule;
    return 0;
}

int cuda_health(struct backend *b, struct device_health *out, struct err *e)
{
    const struct cuda_monitor *m = monitor_of(cuda_state_of(b));
    unsigned long long wide = 0;
    unsigned value = 0;

    memset(out, 0, sizeof *out);
    (void)e;
    out->temperature_c = out->clock_mhz = NAN;
    if (!m || !m->device)
        return 0;
    const struct nvml *f = &m->nvml;
    if (f->nvmlDeviceGetTemperature &&
        f->nvmlDeviceGetTemperature(m->device, NVML_TEMPERATURE_GPU, &value) == NVML_SUCCESS)
        out->temperature_c = value;
    if (f->nvmlDeviceGetClockInfo &&
        f->nvmlDeviceGetClockInfo(m->device, NVML_CLOCK_SM, &value) == NVML_SUCCESS)
        out->clock_mhz = value;
    if (f->nvmlDeviceGetCurrentClocksThrottleReasons &&
        f->nvmlDeviceGetCurrentClocksThrottleReasons(m->device, &wide) == NVML_SUCCESS)
        name_limits(wide, out->limits, sizeof out->limits);
    return 0;
}

int cuda_mark(struct backend *b, int i, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);

    if (!s->marks[i])
        CUDA_TRY(cudaEventCreate(&s->marks[i]));
    CUDA_TRY(cudaEventRecord(s->marks[i], s->stream));
    return 0;
}

int cuda_elapsed(struct backend *b, int from, int to, double *seconds, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    float ms = 0;

    CUDA_TRY(cudaEventSynchronize(s->marks[to]));
    CUDA_TRY(cudaEventElapsedTime(&ms, s->marks[from], s->marks[to]));
    *seconds = 1e-3 * ms;
    return 0;
}

/* Processes with work on the device, -1: not known; *own: this one is among them by its number. */
static int count_processes(const struct cuda_monitor *m, bool *own)
{
    struct nvml_process list[64];
    unsigned n = sizeof list / sizeof *list;

    *own = false;
    if (!m || !m->device || !m->nvml.nvmlDeviceGetComputeRunningProcesses_v3)
        return -1;
    int rc = m->nvml.nvmlDeviceGetComputeRunningProcesses_v3(m->device, &n, list);
    if (rc == NVML_INSUFFICIENT_SIZE)
        return (int)n;
    if (rc != NVML_SUCCESS)
        return -1;
    for (unsigned i = 0; i < n; i++)
        *own = *own || list[i].pid == (unsigned)getpid();
    return (int)n;
}

/* In a container NVML may number processes as the host does: then ours is not among them by number,
 * but it is one of them. */
int cuda_n_others(struct backend *b, int *out, struct err *e)
{
    bool own;
    int n = count_processes(monitor_of(cuda_state_of(b)), &own);

    (void)e;
    *out = n > 0 ? n - 1 : n;
    return 0;
}

int cuda_say_who_fills(struct cuda_state *s, struct err *e)
{
    const struct cuda_monitor *m = monitor_of(s);
    struct nvml_memory memory;
    char others[64] = "";
    bool own;
    int n = count_processes(m, &own) - own;

    if (n > 0)
        snprintf(others, sizeof others, " (%d other process%s on it)", n,
                 n == 1 ? " is" : "es are");
    if (m && m->device && m->nvml.nvmlDeviceGetMemoryInfo &&
        m->nvml.nvmlDeviceGetMemoryInfo(m->device, &memory) == NVML_SUCCESS)
        return err_in(e, "the first use of %s, where %llu of %llu bytes are free%s", s->name,
                      memory.free, memory.total, others);
    return err_in(e, "the first use of %s%s", s->name, others);
}
