/* Numbers of this process as Prometheus text, under the names that its client libraries use
 * (process_cpu_seconds_total, process_resident_memory_bytes, process_open_fds, ...). */
#ifndef DAEMON_PROCESS_H
#define DAEMON_PROCESS_H

#include "daemon/base/buf.h"

#include <stdint.h>

/* Reads /proc/self; what cannot be read is left out. started_ms: Unix milliseconds. [any thread] */
void process_metrics(struct buf *out, int64_t started_ms);

#endif
