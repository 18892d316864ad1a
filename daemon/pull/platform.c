/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Platforms, and which entry of an index is for one.
 *
 * Names are brought to one form before they are compared: what Docker, containerd and uname call the
 * same is the same, and the variant that an architecture has by default is none. A machine runs what
 * was built for an older variant of its architecture, so variants have levels; the highest that still
 * runs wins, the first of equals. A variant without a level matches itself alone.
 *
 * No other machine code is chosen than what was asked for: an arm64 that could run arm is not given it.
 */
#include <ctype.h>
#include <stdarg.h>
#include <string.h>
#include <sys/utsname.h>
#include "pull/parts.h"

#define LISTED_MAX 16 /* platforms that a message names */

static const struct {
	const char *name, *arch, *variant;
} aliases[] = {
	{"x86_64", "amd64", NULL},
	{"x86-64", "amd64", NULL},
	{"aarch64", "arm64", NULL},
	{"i386", "386", NULL},
	{"i486", "386", NULL},
	{"i586", "386", NULL},
	{"i686", "386", NULL},
	{"armhf", "arm", "v7"},
	{"armv7l", "arm", "v7"},
	{"armel", "arm", "v6"},
	{"armv6l", "arm", "v6"},
	{"loongarch64", "loong64", NULL},
};

static const char *const architectures[] = {"amd64", "arm64", "arm", "386", "loong64", "mips",
	"mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64", "s390x"};

/* ---- one form */

static void lower(char *s)
{
	for (; *s; s++)
		*s = tolower((unsigned char)*s);
}

static void normalize(struct pull_platform *p)
{
	lower(p->os);
	lower(p->arch);
	lower(p->variant);
	for (size_t i = 0; i < ELEMENTSOF(aliases); i++) {
		if (strcmp(aliases[i].name, p->arch) != 0)
			continue;
		strcpy(p->arch, aliases[i].arch);
		if (aliases[i].variant && !p->variant[0])
			strcpy(p->variant, aliases[i].variant);
		break;
	}
	size_t n = strlen(p->variant);
	if (isdigit((unsigned char)p->variant[0]) && n + 2 <= sizeof(p->variant)) {
		memmove(p->variant + 1, p->variant, n + 1); /* "8" for "v8" */
		p->variant[0] = 'v';
	}
	if (strcmp(p->arch, "arm") == 0 && !p->variant[0])
		strcpy(p->variant, "v7");
	if ((strcmp(p->arch, "amd64") == 0 && strcmp(p->variant, "v1") == 0) ||
		(strcmp(p->arch, "arm64") == 0 && strcmp(p->variant, "v8") == 0))
		p->variant[0] = '\0';
}

const char *pull_platform_text(const struct pull_platform *p, char ret[PULL_PLATFORM_TEXT])
{
	snprintf(ret, PULL_PLATFORM_TEXT, "%s/%s%s%s", p->os[0] ? p->os : "unknown",
		p->arch[0] ? p->arch : "unknown", p->variant[0] ? "/" : "", p->variant);
	return ret;
}

static int this_machine(struct pull_platform *p, struct banger_error *err)
{
	struct utsname u;

	if (uname(&u) < 0 || strlen(u.machine) >= sizeof(p->arch))
		return banger_error_set(
			err, BANGER_INTERNAL, "the architecture of this machine is not known");
	strcpy(p->os, "linux");
	strcpy(p->arch, u.machine);
	return 0;
}

static bool known_arch(const char *arch)
{
	for (size_t i = 0; i < ELEMENTSOF(architectures); i++)
		if (strcmp(architectures[i], arch) == 0)
			return true;
	return false;
}

static bool take_part(const char **s, char *to, size_t size)
{
	size_t n = strcspn(*s, "/");

	if (n == 0 || n >= size)
		return false;
	memcpy(to, *s, n);
	to[n] = '\0';
	*s += n + ((*s)[n] == '/' && (*s)[n + 1]);
	return true;
}

/* OS/ARCH[/VARIANT], or ARCH, or OS. */
static bool split(const char *text, struct pull_platform *p)
{
	const char *s = text;

	if (!take_part(&s, p->os, sizeof(p->os)))
		return false;
	if (!*s) {
		if (strcmp(p->os, "linux") == 0)
			return true;
		strcpy(p->arch, p->os);
		strcpy(p->os, "linux");
		return true;
	}
	if (!take_part(&s, p->arch, sizeof(p->arch)))
		return false;
	if (*s && !take_part(&s, p->variant, sizeof(p->variant)))
		return false;
	return !*s;
}

int pull_platform_parse(const char *text, struct pull_platform *ret, struct banger_error *err)
{
	struct pull_platform p = {0};
	int r;

	if (text && !split(text, &p))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"\"%.100s\" is not a platform like linux/amd64 or linux/arm/v7", text);
	if ((!text || !p.arch[0]) && (r = this_machine(&p, err)) < 0)
		return r;
	normalize(&p);
	if (strcmp(p.os, "linux") != 0)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"platform \"%.100s\": only images for Linux can be booted", text);
	if (!known_arch(p.arch))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"platform \"%.100s\": architecture \"%s\" is not known (amd64, arm64, …)",
			text ?: "of this machine", p.arch);
	if (p.variant[strspn(p.variant, "abcdefghijklmnopqrstuvwxyz0123456789._-")])
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"platform \"%.100s\": \"%s\" is not a variant", text, p.variant);
	*ret = p;
	return 0;
}

int platform_from_json(struct json_object *o, const char *path, struct pull_platform *ret,
	struct banger_error *err)
{
	const char *os = NULL, *arch = NULL, *variant = NULL;
	struct pull_platform p = {0};
	int r;

	if ((r = field_string(o, path, "os", false, sizeof(p.os) - 1, &os, err)) < 0 ||
		(r = field_string(o, path, "architecture", false, sizeof(p.arch) - 1, &arch, err)) <
			0 ||
		(r = field_string(
			 o, path, "variant", false, sizeof(p.variant) - 1, &variant, err)) < 0)
		return r;
	if (os && *os && arch && *arch) {
		strcpy(p.os, os);
		strcpy(p.arch, arch);
		strcpy(p.variant, variant ?: "");
		normalize(&p);
	}
	*ret = p;
	return 0;
}

/* ---- what runs where */

/* "v8.2" is 82. -1: no such form. */
static int number_of(const char *variant)
{
	if (variant[0] != 'v' || !isdigit((unsigned char)variant[1]))
		return -1;
	if (variant[2] == '\0')
		return (variant[1] - '0') * 10;
	if (variant[2] != '.' || !isdigit((unsigned char)variant[3]) || variant[4])
		return -1;
	return (variant[1] - '0') * 10 + variant[3] - '0';
}

/* Of a normalized platform; what has a level runs what has a lower one. -1: none. */
static int level(const struct pull_platform *p)
{
	if (strcmp(p->arch, "amd64") == 0)
		return p->variant[0] ? number_of(p->variant) : 10;
	if (strcmp(p->arch, "arm64") == 0)
		return p->variant[0] ? number_of(p->variant) : 80;
	return strcmp(p->arch, "arm") == 0 ? number_of(p->variant) : -1;
}

/* How well `want` runs `have`: 0 not at all, else the more the better. */
static int fitness(const struct pull_platform *want, const struct pull_platform *have)
{
	if (strcmp(want->os, have->os) != 0 || strcmp(want->arch, have->arch) != 0)
		return 0;
	if (strcmp(want->variant, have->variant) == 0)
		return 1000;
	int w = level(want), h = level(have);
	return w >= 0 && h >= 0 && h < w ? 1 + h : 0;
}

bool pull_platform_runs(const struct pull_platform *want, const struct pull_platform *have)
{
	return !have->os[0] || fitness(want, have) > 0;
}

/* ---- selection */

static bool is_index(const struct pull_descriptor *d)
{
	return strcmp(d->media_type, MEDIA_OCI_INDEX) == 0 ||
	       strcmp(d->media_type, MEDIA_DOCKER_LIST) == 0;
}

/* Could this lead to an image? A referrer's artifact type may be the type of a configuration. */
static bool candidate(const struct pull_descriptor *d)
{
	if (d->attestation || (d->artifact_type && !config_media_type(d->artifact_type)))
		return false;
	if (strcmp(d->platform.os, "unknown") == 0 && strcmp(d->platform.arch, "unknown") == 0)
		return false;
	return is_index(d) || strcmp(d->media_type, MEDIA_OCI_MANIFEST) == 0 ||
	       strcmp(d->media_type, MEDIA_DOCKER_MANIFEST) == 0;
}

/* A list of texts in a message: each once, the first LISTED_MAX of them. */
struct listing {
	char text[768];
	char seen[LISTED_MAX][PULL_PLATFORM_TEXT];
	size_t n, more;
};

static void list_add(struct listing *l, const char *s)
{
	for (size_t i = 0; i < l->n; i++)
		if (strcmp(l->seen[i], s) == 0)
			return;
	if (l->n == LISTED_MAX) {
		l->more++;
		return;
	}
	size_t at = strlen(l->text);
	snprintf(l->text + at, sizeof(l->text) - at, "%s%s", at ? ", " : "", s);
	snprintf(l->seen[l->n++], sizeof(l->seen[0]), "%s", s);
}

static int refuse_no_image(const struct pull_document *index, struct banger_error *err)
{
	struct listing l = {0};
	size_t attestations = 0;

	if (index->n == 0)
		return banger_error_set(err, BANGER_UNSUPPORTED, "the index is empty");
	for (size_t i = 0; i < index->n; i++) {
		const struct pull_descriptor *d = &index->items[i];
		char text[PULL_PLATFORM_TEXT];

		attestations += d->attestation;
		snprintf(text, sizeof(text), "%.99s",
			d->attestation ? "attestation" : d->artifact_type ?: d->media_type);
		list_add(&l, text);
	}
	return banger_error_set(err, BANGER_UNSUPPORTED, "the index has no image: its %zu %s: %s%s",
		index->n,
		attestations == index->n ? "entries are attestations"
					 : "entries are attestations and artifacts",
		l.text, l.more ? ", …" : "");
}

static int refuse_platform(const struct pull_document *index, const struct pull_platform *want,
	struct banger_error *err)
{
	char text[PULL_PLATFORM_TEXT];
	struct listing l = {0};
	size_t unsaid = 0;

	for (size_t i = 0; i < index->n; i++) {
		const struct pull_descriptor *d = &index->items[i];

		if (candidate(d) && d->platform.os[0])
			list_add(&l, pull_platform_text(&d->platform, text));
		unsaid += candidate(d) && !d->platform.os[0];
	}
	pull_platform_text(want, text);
	if (!l.n)
		return banger_error_set(err, BANGER_NOT_FOUND,
			"none of the %zu images in the index says its platform; %s is wanted",
			unsaid, text);
	return banger_error_set(err, BANGER_NOT_FOUND,
		"no image for %s in the index, only for: %s%s", text, l.text, l.more ? ", …" : "");
}

int pull_index_select(const struct pull_document *index, const struct pull_platform *want,
	const struct pull_descriptor **ret, struct banger_error *err)
{
	const struct pull_descriptor *best = NULL, *unsaid = NULL;
	size_t candidates = 0;
	int best_fitness = 0;

	for (size_t i = 0; i < index->n; i++) {
		const struct pull_descriptor *d = &index->items[i];

		if (!candidate(d))
			continue;
		candidates++;
		if (!d->platform.os[0])
			unsaid = d;
		int f = d->platform.os[0] ? fitness(want, &d->platform) : 0;
		if (f > best_fitness) {
			best = d;
			best_fitness = f;
		}
	}
	if (!best && candidates == 1)
		best = unsaid;
	if (!best)
		return candidates ? refuse_platform(index, want, err) : refuse_no_image(index, err);
	if (best->size > PULL_DOCUMENT_MAX)
		return banger_error_set(err, BANGER_TOO_LARGE,
			"the index says that %s has %lld bytes, more than the %d a manifest may "
			"have",
			best->digest, (long long)best->size, PULL_DOCUMENT_MAX);
	*ret = best;
	return 0;
}
