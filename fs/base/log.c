#include "fs/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

enum { LOG_LINE_MAX = 1024 };

static const char *log_ident = "tandemfs";
static enum log_sink log_to = LOG_SINK_STDERR;
static enum log_level log_max = LOG_LVL_INFO;

void log_init(const char *ident, enum log_sink sink, enum log_level level)
{
	log_ident = ident;
	log_to = sink;
	log_max = level;
	if (sink == LOG_SINK_SYSLOG)
		openlog(ident, LOG_PID | LOG_NDELAY, LOG_DAEMON);
}

static void to_stderr(enum log_level level, const char *text)
{
	static const char *const names[] = { "error", "warn", "info", "debug" };
	char line[LOG_LINE_MAX + 128];
	struct timespec t;
	struct tm tm;

	clock_gettime(CLOCK_REALTIME, &t);
	localtime_r(&t.tv_sec, &tm);
	int n = snprintf(line, sizeof line, "%02d:%02d:%02d.%03ld %s: %s: %s\n", tm.tm_hour, tm.tm_min, tm.tm_sec,
			 t.tv_nsec / 1000000, log_ident, names[level], text);
	size_t len = (size_t)n < sizeof line ? (size_t)n : sizeof line - 1;
	if (write(STDERR_FILENO, line, len) < 0)
		return;		/* nowhere left to tell */
}

void log_line(enum log_level level, const char *fmt, ...)
{
	static const int prio[] = { LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG };
	char text[LOG_LINE_MAX];
	va_list ap;

	if (level > log_max)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < ' ')
			*p = '?';	/* one line stays one line, whatever a file's name holds */
	if (log_to == LOG_SINK_SYSLOG)
		syslog(prio[level], "%s", text);
	else
		to_stderr(level, text);
}
