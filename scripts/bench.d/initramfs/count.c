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
	char runtime[128] = "", line[192];
	int log, costs, trigger;

	(void)argc;
	must(mount("proc", "/bench/proc", "proc", 0, NULL), "bench: cannot mount proc");
	must(mount("tracefs", "/bench/tracing", "tracefs", 0, NULL), "bench: cannot mount tracefs");
	log = must(open("/dev/kmsg", O_WRONLY | O_CLOEXEC), "bench: cannot open the kernel log");
	trigger = must(open("/bench/tracing/events/raw_syscalls/sys_enter/trigger", O_WRONLY | O_CLOEXEC),
		       "bench: cannot open the trigger");
	must(write(trigger, count, strlen(count)), "bench: cannot count system calls");
	costs = must(open("/bench/proc/self/schedstat", O_RDONLY | O_CLOEXEC), "bench: cannot open schedstat");
	must(umount2("/bench/tracing", MNT_DETACH), "bench: cannot unmount tracefs");
	must(umount2("/bench/proc", MNT_DETACH), "bench: cannot unmount proc");
	/* Nanoseconds on a processor, and more that is of no interest here. */
	must(read(costs, runtime, sizeof runtime - 1), "bench: cannot read schedstat");
	snprintf(line, sizeof line, "bench: runtime %.*s\n", (int)strcspn(runtime, " "), runtime);
	must(write(log, line, strlen(line)), "bench: cannot write to the kernel log");
	execv("/init", argv);
	perror("bench: cannot run /init");
	return 1;
}
