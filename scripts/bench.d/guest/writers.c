/*
 * Many writers at once, as a container engine is that unpacks layers: each makes files in a
 * directory of its own. Prints as JSON how many were made in a second, until all is on the disk, or
 * what was the first to fail.
 *
 *   writers DIR WRITERS FILES-EACH
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { FILE_BYTES = 4096 };

/* What went wrong first, of all processes. */
static struct {
	int taken;
	char text[512];
} *failure;

static int failed(const char *what, const char *path)
{
	if (!__sync_lock_test_and_set(&failure->taken, 1))
		snprintf(failure->text, sizeof failure->text, "cannot %s %s: %s", what, path, strerror(errno));
	return 1;
}

static int make_file(const char *path, const char *content)
{
	int file = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);

	if (file < 0)
		return failed("make", path);
	if (write(file, content, FILE_BYTES) != FILE_BYTES || close(file))
		return failed("write", path);
	return 0;
}

static int make_files(const char *dir, int writer, int files)
{
	char path[256], content[FILE_BYTES];

	memset(content, 'a' + writer % 26, sizeof content);
	snprintf(path, sizeof path, "%s/%d", dir, writer);
	if (mkdir(path, 0755))
		return failed("make", path);
	for (int i = 0; i < files; i++) {
		snprintf(path, sizeof path, "%s/%d/%d", dir, writer, i);
		if (make_file(path, content))
			return 1;
	}
	return 0;
}

/* Until everything is on the disk. */
static int write_all(const char *dir, int writers, int files)
{
	int folder;

	if (mkdir(dir, 0755) || (folder = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		return failed("make", dir);
	for (int writer = 0; writer < writers; writer++) {
		pid_t pid = fork();

		if (pid < 0)
			return failed("fork for", dir);
		if (!pid)
			_exit(make_files(dir, writer, files));
	}
	while (wait(NULL) > 0)
		;
	if (syncfs(folder))
		return failed("sync", dir);
	return failure->taken;
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	double start = seconds();

	if (argc != 4)
		return 2;
	failure = mmap(NULL, sizeof *failure, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (failure == MAP_FAILED)
		return 2;
	if (write_all(argv[1], atoi(argv[2]), atoi(argv[3])))
		printf("{\"died\": \"%s\"}\n", failure->text);
	else
		printf("{\"files_s\": %.1f}\n", atoi(argv[2]) * atoi(argv[3]) / (seconds() - start));
	return 0;
}
