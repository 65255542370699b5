#include "daemon/process.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

static void write_one(struct buf *out, const char *type, const char *metric, const char *help,
                      double value)
{
    buf_printf(out, "# HELP %s %s.\n# TYPE %s %s\n%s %.17g\n", metric, help, metric, type, metric,
               value);
}

static double seconds(const struct timeval *t)
{
    return (double)t->tv_sec + (double)t->tv_usec * 1e-6;
}

/* Pages in all and in memory. */
static int read_memory(unsigned long *all, unsigned long *resident)
{
    FILE *f = fopen("/proc/self/statm", "re");
    int n = f ? fscanf(f, "%lu %lu", all, resident) : 0;
    if (f)
        fclose(f);
    return n == 2 ? 0 : -1;
}

static int count_fds(void)
{
    int n = -3; /* ".", "..", and the folder itself */
    DIR *d = opendir("/proc/self/fd");
    if (!d)
        return -1;
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

void process_metrics(struct buf *out, int64_t started_ms)
{
    struct rusage used;
    struct rlimit files;
    unsigned long all, resident;
    double page = (double)sysconf(_SC_PAGESIZE);
    int fds = count_fds();
    if (getrusage(RUSAGE_SELF, &used) == 0)
        write_one(out, "counter", "process_cpu_seconds_total", "User and system CPU time",
                  seconds(&used.ru_utime) + seconds(&used.ru_stime));
    if (read_memory(&all, &resident) == 0) {
        write_one(out, "gauge", "process_virtual_memory_bytes", "Virtual memory",
                  (double)all * page);
        write_one(out, "gauge", "process_resident_memory_bytes", "Memory in RAM",
                  (double)resident * page);
    }
    if (fds >= 0)
        write_one(out, "gauge", "process_open_fds", "Open file descriptors", fds);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0)
        write_one(out, "gauge", "process_max_fds", "Most file descriptors", (double)files.rlim_cur);
    write_one(out, "gauge", "process_start_time_seconds", "Start of the process, Unix time",
              (double)started_ms * 1e-3);
}
