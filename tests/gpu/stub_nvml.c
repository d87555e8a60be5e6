/* A libnvidia-ml.so.1 that reports the GPUs of a text file, for tests of the real pynvml.
 *
 * STUB_NVML_SPEC names the file, which is read again at every count of the devices (one count a
 * reading), so that a test may change the machine while it runs. Its lines (tab-separated):
 *   init_error  fail_after  fail_code
 *   uuid bus_id name total free util major minor handle_err memory_err util_err lost_after mig
 *   cores clock_mhz processes
 * `fail_after` readings the library answers `fail_code`; `lost_after` readings that GPU is lost;
 * -1 is never; `cores`, `clock_mhz` or `processes` below 0 are not supported. `mig` is "off" (not supported), "none" (mode on, no instance) or UUIDs by comma.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_GPUS 64
#define MAX_MIG 8

typedef struct {
    char uuid[96], bus_id[32], name[96], mig[MAX_MIG * 64];
    unsigned long long total, free;
    int util, major, minor, handle_err, memory_err, util_err, lost_after;
    int cores, clock, processes;
} gpu_t;

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct {
    unsigned int pid;
    unsigned long long used_bytes;
    unsigned int gpu_instance, compute_instance;
} process_t;
typedef struct {
    char legacy[16];
    unsigned int domain, bus, device, pci_device, pci_subsystem;
    char bus_id[32];
} pci_t;

static gpu_t gpus[MAX_GPUS];
static int gpu_count, init_error, fail_after = -1, fail_code, readings, started;

static int load(void) {
    char line[2048];
    const char *path = getenv("STUB_NVML_SPEC");
    FILE *file = path ? fopen(path, "r") : NULL;
    gpu_count = 0;
    if (!file) return 0;
    if (fgets(line, sizeof line, file))
        sscanf(line, "%d\t%d\t%d", &init_error, &fail_after, &fail_code);
    while (gpu_count < MAX_GPUS && fgets(line, sizeof line, file)) {
        gpu_t *g = &gpus[gpu_count];
        int got = sscanf(line,
            "%95[^\t]\t%31[^\t]\t%95[^\t]\t%llu\t%llu\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%511[^\t]"
            "\t%d\t%d\t%d",
            g->uuid, g->bus_id, g->name, &g->total, &g->free, &g->util, &g->major, &g->minor,
            &g->handle_err, &g->memory_err, &g->util_err, &g->lost_after, g->mig,
            &g->cores, &g->clock, &g->processes);
        if (got == 16) gpu_count++;
    }
    fclose(file);
    return 1;
}

/* A handle is 1000 * (GPU + 1), plus the number of the MIG instance + 1. */
static gpu_t *board(void *handle) { return &gpus[(size_t)handle / 1000 - 1]; }
static int instance(void *handle) { return (int)((size_t)handle % 1000) - 1; }

static int mig_uuid(const gpu_t *g, int wanted, char *out, size_t size) {
    char copy[sizeof g->mig];
    char *entry, *rest = copy;
    if (!strcmp(g->mig, "off") || !strcmp(g->mig, "none")) return 6;
    strcpy(copy, g->mig);
    while ((entry = strsep(&rest, ","))) {
        if (wanted-- == 0) {
            /* An empty entry is a slot without an instance. */
            if (!*entry) return 6;
            snprintf(out, size, "%s", entry);
            return 0;
        }
    }
    return 6;
}

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    if (!load()) return 9;
    if (!init_error) started++;
    return init_error;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void) {
    if (!started) return 1;
    started--;
    return 0;
}

const char *nvmlErrorString(int code) {
    (void)code;
    return "stub error";
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    if (!started) return 1;
    load();
    readings++;
    if (fail_after >= 0 && readings > fail_after) return fail_code;
    *count = (unsigned int)gpu_count;
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
    if (index >= (unsigned int)gpu_count) return 2;
    *handle = (void *)(size_t)(1000 * (index + 1));
    gpu_t *g = board(*handle);
    if (g->lost_after >= 0 && readings > g->lost_after) return 15;
    return g->handle_err;
}

int nvmlDeviceGetPciInfo_v3(void *handle, pci_t *pci) {
    memset(pci, 0, sizeof *pci);
    strcpy(pci->bus_id, board(handle)->bus_id);
    return 0;
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned int length) {
    if (instance(handle) >= 0) return mig_uuid(board(handle), instance(handle), uuid, length);
    snprintf(uuid, length, "%s", board(handle)->uuid);
    return 0;
}

int nvmlDeviceGetName(void *handle, char *name, unsigned int length) {
    snprintf(name, length, "%s", board(handle)->name);
    return 0;
}

int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
    gpu_t *g = board(handle);
    memory->total = g->total;
    memory->free = g->free;
    memory->used = g->total - g->free;
    return g->memory_err;
}

int nvmlDeviceGetUtilizationRates(void *handle, utilization_t *utilization) {
    if (instance(handle) >= 0) return 3;
    utilization->gpu = (unsigned int)board(handle)->util;
    utilization->memory = 0;
    return board(handle)->util_err;
}

int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    *major = board(handle)->major;
    *minor = board(handle)->minor;
    return 0;
}

int nvmlDeviceGetMigMode(void *handle, unsigned int *current, unsigned int *pending) {
    if (!strcmp(board(handle)->mig, "off")) return 3;
    *current = *pending = 1;
    return 0;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned int *count) {
    (void)handle;
    *count = MAX_MIG;
    return 0;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned int index, void **instance_handle) {
    char uuid[96];
    *instance_handle = (void *)((size_t)handle + index + 1);
    return mig_uuid(board(handle), (int)index, uuid, sizeof uuid);
}

int nvmlDeviceGetNumGpuCores(void *handle, unsigned int *count) {
    if (instance(handle) >= 0 || board(handle)->cores < 0) return 3;
    *count = (unsigned int)board(handle)->cores;
    return 0;
}

int nvmlDeviceGetMaxClockInfo(void *handle, int type, unsigned int *clock_mhz) {
    if (type != 1 || instance(handle) >= 0 || board(handle)->clock < 0) return 3;
    *clock_mhz = (unsigned int)board(handle)->clock;
    return 0;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned int *count, process_t *found) {
    int running = board(handle)->processes;
    if (running < 0) return 3;
    if (*count < (unsigned int)running) {
        *count = (unsigned int)running;
        return 7;
    }
    *count = (unsigned int)running;
    for (int i = 0; i < running; i++)
        found[i] = (process_t){100u + (unsigned int)i, 1u << 30, -1u, -1u};
    return 0;
}
