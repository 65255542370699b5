/* What the process tells systemd (Type=notify), by its datagram protocol: no library is needed.
 *
 * Does nothing where NOTIFY_SOCKET is not set. Threads: one at a time. */
#ifndef DAEMON_NOTIFY_H
#define DAEMON_NOTIFY_H

#include <stdint.h>

/* "READY=1", "STOPPING=1", "WATCHDOG=1". False: nobody was told. */
int notify_tell(const char *state);
/* How often "WATCHDOG=1" must be told, in ms (half of what WATCHDOG_USEC allows); 0: not at all. */
uint64_t notify_watchdog_ms(void);

#endif
