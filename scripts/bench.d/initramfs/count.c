/*
 * Stands before /init in a boot that is not timed: lets the kernel count system calls, notes what
 * PID 1 has cost so far, which was the boot of the kernel, and leaves nothing mounted. Calls are
 * told apart by the program that made them; those of this one and of the new init are not
 * counted, because both are called measure.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <time.h>
#include <unistd.h>

static const char count[] = "hist:keys=common_pid.execname,id.syscall:size=4096 if comm != \"measure\"";

static int must(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		_exit(1);
	}
	return result;
}

int main(int argc, char **argv)
{
	struct timespec runtime;
	char line[64];
	int log, trigger;

	(void)argc;
	must(mount("tracefs", "/bench/tracing", "tracefs", 0, NULL), "bench: cannot mount tracefs");
	log = must(open("/dev/kmsg", O_WRONLY | O_CLOEXEC), "bench: cannot open the kernel log");
	trigger = must(open("/bench/tracing/events/raw_syscalls/sys_enter/trigger", O_WRONLY | O_CLOEXEC),
		       "bench: cannot open the trigger");
	must(write(trigger, count, strlen(count)), "bench: cannot count system calls");
	must(umount2("/bench/tracing", MNT_DETACH), "bench: cannot unmount tracefs");
	/* Of all threads, those that have ended as well. */
	must(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &runtime), "bench: no clock of the process");
	snprintf(line, sizeof line, "bench: runtime %lld\n", runtime.tv_sec * 1000000000LL + runtime.tv_nsec);
	must(write(log, line, strlen(line)), "bench: cannot write to the kernel log");
	execv("/init", argv);
	perror("bench: cannot run /init");
	return 1;
}
