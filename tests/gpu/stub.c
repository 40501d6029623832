/* A libnvidia-ml.so.1 with two GPUs and only some of NVML's entry points, as an old driver has:
   the real binding's structures and error mapping run against it. GPU 1 has 7 uncorrected errors. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef struct { uint32_t id, scope; int64_t at, latency; uint32_t type, code; uint64_t value; } field_t;
typedef struct { uint32_t version; uint64_t total, reserved, free, used; } memory_t;
typedef struct { uint8_t uuid[16]; uint32_t status, clique; uint8_t state; } fabric_t;

int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return "stub error"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = (void *)(uintptr_t)(index + 1);
    return index < 2 ? 0 : 2;
}
static int number(void *device) { return (int)(uintptr_t)device - 1; }
int nvmlDeviceGetName(void *device, char *name, unsigned size) { snprintf(name, size, "Stub"); return 0; }
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned size) {
    snprintf(uuid, size, "GPU-stub-%d", number(device));
    return 0;
}
int nvmlDeviceGetFieldValues(void *device, int count, field_t *values) {
    values[0].code = 0;
    values[0].value = values[0].id == 230 ? 0 : 99;
    return 0;
}
int nvmlDeviceGetMemoryInfo_v2(void *device, memory_t *memory) {
    memory->total = 80ull << 30;
    memory->reserved = 600ull << 20;
    memory->used = 5ull << 20;
    memory->free = memory->total - memory->reserved - memory->used;
    return memory->version == 0x02000028 ? 0 : 25;
}
int nvmlDeviceGetTotalEccErrors(void *device, unsigned type, unsigned counter, unsigned long long *count) {
    *count = type == 1 && counter == 0 && number(device) == 1 ? 7 : 0;
    return 0;
}
int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) { return 3; }
int nvmlDeviceGetRemappedRows(void *d, unsigned *corrected, unsigned *uncorrected, unsigned *pending,
                              unsigned *failure) {
    *corrected = 1, *uncorrected = 0, *pending = 0, *failure = 0;
    return 0;
}
int nvmlDeviceGetGpuFabricInfo(void *device, fabric_t *info) {
    info->status = 0, info->state = 3;
    return 0;
}
