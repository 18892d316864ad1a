/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listings. Rows are kept until they are printed, because a column is as wide as its widest cell;
 * the cells of a row are one block of memory with the row. The last column is not padded, so no
 * line ends in spaces.
 */
#include <stdarg.h>
#include <string.h>
#include "output.h"
#include "text.h"

struct row {
	char **cells;
};

struct listing {
	const struct listing_column *columns;
	size_t n_columns;
	bool heading;
	struct row *rows;
	size_t n_rows, space;
	size_t by, then; /* what listing_sort() was told */
};

int listing_new(const struct listing_column *columns, size_t n, struct listing **ret)
{
	struct listing *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->columns = columns;
	l->n_columns = n;
	l->heading = true;
	*ret = l;
	return 0;
}

void listing_freep(struct listing **p)
{
	struct listing *l = *p;

	if (!l)
		return;
	for (size_t i = 0; i < l->n_rows; i++)
		free(l->rows[i].cells);
	free(l->rows);
	free(l);
	*p = NULL;
}

static int make_room(struct listing *l)
{
	if (l->n_rows < l->space)
		return 0;
	size_t space = l->space ? l->space * 2 : 16;
	struct row *rows = reallocarray(l->rows, space, sizeof(*rows));
	if (!rows)
		return -ENOMEM;
	l->rows = rows;
	l->space = space;
	return 0;
}

static void free_all(char **cells, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(cells[i]);
}

/* Lay clean cells out in one block: the pointers, then the texts. */
static char **pack(char *const *clean, size_t n)
{
	size_t size = n * sizeof(char *);

	for (size_t i = 0; i < n; i++)
		size += strlen(clean[i]) + 1;
	char **cells = malloc(size);
	if (!cells)
		return NULL;
	char *to = (char *)(cells + n);
	for (size_t i = 0; i < n; i++) {
		cells[i] = to;
		to = stpcpy(to, clean[i]) + 1;
	}
	return cells;
}

int listing_add(struct listing *l, const char *const *cells)
{
	char *clean[16];
	size_t n = l->n_columns;

	if (n > ELEMENTSOF(clean) || make_room(l) < 0)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		clean[i] = text_clean(cells[i] && *cells[i] ? cells[i] : "-");
		if (!clean[i]) {
			free_all(clean, i);
			return -ENOMEM;
		}
	}
	char **packed = pack(clean, n);
	free_all(clean, n);
	if (!packed)
		return -ENOMEM;
	l->rows[l->n_rows++].cells = packed;
	return 0;
}

static int compare(const void *a, const void *b, void *arg)
{
	const struct listing *l = arg;
	const struct row *x = a, *y = b;
	int d = strcmp(x->cells[l->by], y->cells[l->by]);

	return d ? d : strcmp(x->cells[l->then], y->cells[l->then]);
}

void listing_sort(struct listing *l, size_t by, size_t then)
{
	l->by = by;
	l->then = then;
	if (l->n_rows > 1)
		qsort_r(l->rows, l->n_rows, sizeof(*l->rows), compare, l);
}

size_t listing_rows(const struct listing *l)
{
	return l->n_rows;
}

const char *listing_cell(const struct listing *l, size_t row, size_t column)
{
	return l->rows[row].cells[column];
}

static void spaces(FILE *f, size_t n)
{
	fprintf(f, "%*s", (int)n, "");
}

static void print_row(
	const struct listing *l, FILE *f, const char *const *cells, const size_t *widths)
{
	for (size_t i = 0; i < l->n_columns; i++) {
		size_t w = text_width(cells[i]), pad = widths[i] > w ? widths[i] - w : 0;
		bool right = l->columns && l->columns[i].right;

		if (right)
			spaces(f, pad);
		fputs(cells[i], f);
		if (i + 1 == l->n_columns)
			break;
		spaces(f, (right ? 0 : pad) + 2);
	}
}

void listing_print(const struct listing *l, FILE *f, bool terminal)
{
	const char *headings[16];
	size_t widths[16] = {0};

	for (size_t i = 0; i < l->n_columns && i < ELEMENTSOF(widths); i++) {
		headings[i] = l->heading ? l->columns[i].heading : "";
		widths[i] = text_width(headings[i]);
		for (size_t j = 0; j < l->n_rows; j++) {
			size_t w = text_width(l->rows[j].cells[i]);
			widths[i] = w > widths[i] ? w : widths[i];
		}
	}
	if (l->heading) {
		fputs(terminal ? "\033[1m" : "", f);
		print_row(l, f, headings, widths);
		fputs(terminal ? "\033[0m\n" : "\n", f);
	}
	for (size_t j = 0; j < l->n_rows; j++) {
		print_row(l, f, (const char *const *)l->rows[j].cells, widths);
		fputc('\n', f);
	}
}

int fields_new(struct listing **ret)
{
	int r = listing_new(NULL, 2, ret);

	if (r == 0)
		(*ret)->heading = false;
	return r;
}

int fields_add(struct listing *l, const char *label, const char *value)
{
	return value && *value ? LISTING_ADD(l, label, value) : 0;
}

int fields_addf(struct listing *l, const char *label, const char *fmt, ...)
{
	_cleanup_free_ char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	int n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n < 0) {
		text = NULL;
		return -ENOMEM;
	}
	return fields_add(l, label, text);
}
