/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unpack_run() for scripts: what the daemon does with the layers of an image, without the daemon.
 *
 *	unpack_layers OUT [KEY=VALUE …] LAYER …
 *
 * KEY: seed (64 hex digits), time, size, headroom, keep, from, home, home-path, home-size (files are
 * made where they are written), max (bytes), memory (MiB), stall (ms), cancel (ms after which it is
 * cancelled), mountpoints=1, grow=STEP: the layers' files "arrive" by STEP bytes, delay=US between.
 * LAYER: FILE[,diff_id=…][,digest=…][,compression=…][,record=FILE], or replay=FILE,diff_id=… .
 *
 * Prints one line of JSON: the result (with "memory", the KiB that banger-unpack had at most, and "cpu_us"), or the error with "code". $BANGER_UNPACK_DIR is where
 * banger-unpack is. Exits with 0 or 1.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <banger/log.h>
#include <banger/wire.h>
#include "unpack/run.h"

#define LAYERS 4096

static struct unpack_layer layers[LAYERS];
static size_t n_layers;
static uint8_t seed[32];
static int64_t step, delay_us, cancel_ms;
static _Atomic int64_t arrived; /* of all layers together */
static int cancel_fd = -1;

static void die(const char *what)
{
	fprintf(stderr, "unpack_layers: %s\n", what);
	exit(2);
}

static int open_file(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0600);

	if (fd < 0)
		die(path);
	return fd;
}

static char *value_of(char *word, const char *key)
{
	size_t n = strlen(key);

	return !strncmp(word, key, n) && word[n] == '=' ? word + n + 1 : NULL;
}

static void take_layer(char *word)
{
	struct unpack_layer *l = &layers[n_layers++];
	char *save = NULL, *v;
	struct stat st;

	if (n_layers == LAYERS)
		die("too many layers");
	l->fd = l->record_in_fd = l->record_out_fd = -1;
	for (char *part = strtok_r(word, ",", &save); part; part = strtok_r(NULL, ",", &save)) {
		if ((v = value_of(part, "diff_id")))
			l->diff_id = v;
		else if ((v = value_of(part, "digest")))
			l->digest = v;
		else if ((v = value_of(part, "compression")))
			l->compression = v;
		else if ((v = value_of(part, "record")))
			l->record_out_fd = open_file(v, O_RDWR | O_CREAT | O_TRUNC);
		else if ((v = value_of(part, "replay")))
			l->record_in_fd = open_file(v, O_RDONLY);
		else if (fstat(l->fd = open_file(part, O_RDONLY), &st) == 0)
			l->size = st.st_size;
	}
}

static bool take_option(struct unpack_options *o, char *word)
{
	char *v;

	if ((v = value_of(word, "seed"))) {
		for (int i = 0; i < 32 && strlen(v) == 64; i++)
			sscanf(v + 2 * (size_t)i, "%2hhx", &seed[i]);
		o->seed = seed;
	} else if ((v = value_of(word, "time")))
		o->time = atoll(v);
	else if ((v = value_of(word, "size")))
		o->size = atoll(v);
	else if ((v = value_of(word, "headroom")))
		o->headroom = atoll(v);
	else if ((v = value_of(word, "keep")))
		o->keep_fd = open_file(v, O_RDWR | O_CREAT | O_TRUNC);
	else if ((v = value_of(word, "from")))
		o->from_fd = open_file(v, O_RDONLY);
	else if ((v = value_of(word, "home")))
		o->work_seed_fd = open_file(v, O_RDWR | O_CREAT | O_TRUNC);
	else if ((v = value_of(word, "home-path")))
		o->work_seed_path = v;
	else if ((v = value_of(word, "home-size")))
		o->work_seed_size = atoll(v);
	else if ((v = value_of(word, "max")))
		o->unpacked_max = atoll(v);
	else if ((v = value_of(word, "memory")))
		o->memory = atoll(v) << 20;
	else if ((v = value_of(word, "stall")))
		o->stall_ms = atoi(v);
	else if ((v = value_of(word, "cancel")))
		cancel_ms = atoll(v);
	else if ((v = value_of(word, "mountpoints")))
		o->mountpoints = true;
	else if ((v = value_of(word, "grow")))
		step = atoll(v);
	else if ((v = value_of(word, "delay")))
		delay_us = atoll(v);
	else
		return false;
	return true;
}

/* Layers arrive one after another, by steps. */
static int64_t available(void *arg, size_t layer, struct banger_error *err)
{
	int64_t have = atomic_load(&arrived);

	for (size_t i = 0; i < layer; i++)
		have -= layers[i].size;
	return have < 0 ? 0 : have < layers[layer].size ? have : layers[layer].size;
}

static void *arrive(void *arg)
{
	int64_t total = 0;

	for (size_t i = 0; i < n_layers; i++)
		total += layers[i].size;
	while (atomic_load(&arrived) < total) {
		if (delay_us > 0)
			usleep(delay_us);
		atomic_fetch_add(&arrived, step);
		(void)!write(*(int *)arg, &(uint64_t){1}, 8);
	}
	return NULL;
}

static void *cancel_later(void *arg)
{
	usleep(cancel_ms * 1000);
	(void)!write(cancel_fd, &(uint64_t){1}, 8);
	return NULL;
}

static void print(struct json_object *o)
{
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
}

static void print_error(const struct banger_error *err, const struct unpack_failure *failure)
{
	struct json_object *o = json_object_new_object();

	banger_json_add_str(o, "code", banger_code_name(err->code));
	banger_json_add_str(o, "message", err->message);
	banger_json_add_bool(o, "reuse", failure->reuse);
	banger_json_add_int(o, "layer", failure->layer);
	print(o);
}

static void print_result(const struct unpack_result *r)
{
	struct rusage usage;

	getrusage(RUSAGE_CHILDREN, &usage);
	const struct {
		const char *key;
		int64_t value;
	} numbers[] = {{"size", r->size}, {"used", r->used}, {"free", r->free},
		{"content", r->content}, {"inodes", r->inodes}, {"members", r->members},
		{"ignored_xattrs", r->ignored_xattrs}, {"read", r->read}, {"kept", r->kept},
		{"shared", r->shared}, {"work_seed_size", r->work_seed_size},
		{"work_seed_inodes", r->work_seed_inodes}, {"memory", usage.ru_maxrss},
		{"cpu_us", (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * INT64_C(1000000) +
				   usage.ru_utime.tv_usec + usage.ru_stime.tv_usec}};
	struct json_object *o = json_object_new_object();

	for (size_t i = 0; i < ELEMENTSOF(numbers); i++)
		banger_json_add_int(o, numbers[i].key, numbers[i].value);
	banger_json_add_str(o, "uuid", r->uuid);
	print(o);
}

int main(int argc, char **argv)
{
	struct banger_config config = {.libexec_dir = getenv("BANGER_UNPACK_DIR")};
	struct unpack_failure failure = {.layer = -1};
	struct unpack_options o = {.tar_fd = -1,
		.notify_fd = -1,
		.from_fd = -1,
		.keep_fd = -1,
		.work_seed_fd = -1,
		.headroom = -1,
		.headroom_percent = -1,
		.layers = layers,
		.failure = &failure};
	struct unpack_result result;
	struct banger_error err = {0};
	pthread_t t;

	if (argc < 2)
		die("unpack_layers OUT [KEY=VALUE …] LAYER …");
	banger_log_init("unpack_layers");
	o.out_fd = open_file(argv[1], O_RDWR | O_CREAT | O_TRUNC);
	for (int i = 2; i < argc; i++)
		if (!take_option(&o, argv[i]))
			take_layer(argv[i]);
	o.n_layers = n_layers;
	o.cancel_fd = cancel_fd = eventfd(0, EFD_CLOEXEC);
	if (step > 0) {
		o.notify_fd = eventfd(0, EFD_CLOEXEC);
		o.available = available;
		if (pthread_create(&t, NULL, arrive, &o.notify_fd) != 0)
			die("no thread");
	}
	if (cancel_ms > 0 && pthread_create(&t, NULL, cancel_later, NULL) != 0)
		die("no thread");
	if (unpack_run(&config, &o, &result, &err) < 0) {
		print_error(&err, &failure);
		return 1;
	}
	print_result(&result);
	return 0;
}
