/*
 * Logging: one line, `subsystem: object: what: why`, four levels, no secrets. Thread-safe.
 * Foreground: stderr; background: syslog (daemon facility). A line is never longer than 1 KiB.
 */
#ifndef FS_BASE_LOG_H
#define FS_BASE_LOG_H

enum log_level { LOG_LVL_ERROR, LOG_LVL_WARN, LOG_LVL_INFO, LOG_LVL_DEBUG };
enum log_sink { LOG_SINK_STDERR, LOG_SINK_SYSLOG };

/* Lines above LEVEL are dropped. IDENT (borrowed for ever) names the program and volume. */
void log_init(const char *ident, enum log_sink sink, enum log_level level);
void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_LVL_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_LVL_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_LVL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LVL_DEBUG, __VA_ARGS__)

#endif
