/* A libcuda.so.1 that counts the GPUs of a text file in the file's order, for tests.
 *
 * STUB_CUDA_SPEC names the file. Its lines (tab-separated):
 *   init_code                       (-1: the process aborts)
 *   uuid_hex bus_id name major minor
 * Without the variable every call answers as the stub library of a CUDA toolkit does.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_GPUS 64

static struct { char uuid[40], bus_id[32], name[96]; int major, minor; } gpus[MAX_GPUS];
static int gpu_count;

int cuInit(unsigned int flags) {
    int code = 0;
    char line[512];
    const char *path = getenv("STUB_CUDA_SPEC");
    FILE *file = path ? fopen(path, "r") : NULL;
    (void)flags;
    if (!file) return 34;
    if (fgets(line, sizeof line, file)) code = atoi(line);
    while (gpu_count < MAX_GPUS && fgets(line, sizeof line, file))
        if (sscanf(line, "%39[^\t]\t%31[^\t]\t%95[^\t]\t%d\t%d", gpus[gpu_count].uuid,
                   gpus[gpu_count].bus_id, gpus[gpu_count].name, &gpus[gpu_count].major,
                   &gpus[gpu_count].minor) == 5)
            gpu_count++;
    fclose(file);
    puts("a driver that talks on standard output");
    if (code == -1) abort();
    return code;
}

int cuDeviceGetCount(int *count) { *count = gpu_count; return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }

int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
    for (int i = 0; i < 16; i++) {
        unsigned int byte;
        sscanf(gpus[device].uuid + 2 * i, "%2x", &byte);
        uuid[i] = (unsigned char)byte;
    }
    return 0;
}

int cuDeviceGetPCIBusId(char *bus_id, int length, int device) {
    snprintf(bus_id, (size_t)length, "%s", gpus[device].bus_id);
    return 0;
}

int cuDeviceGetName(char *name, int length, int device) {
    snprintf(name, (size_t)length, "%s", gpus[device].name);
    return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? gpus[device].major : gpus[device].minor;
    return 0;
}

int cuGetErrorString(int code, const char **text) {
    *text = code == 802 ? "system not yet initialized" : "stub error";
    return 0;
}
