/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Output for people: listings with aligned columns, and lists of fields. Cells are made safe to
 * show (text.h) as they come in. Nothing but spaces aligns them; a terminal gets the heading in
 * bold.
 */
#ifndef BANGER_CTL_OUTPUT_H
#define BANGER_CTL_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <banger/cleanup.h>

struct listing;

struct listing_column {
	const char *heading;
	bool right; /* numbers */
};

/* `columns` must outlive the listing. -ENOMEM. */
int listing_new(const struct listing_column *columns, size_t n, struct listing **ret);
void listing_freep(struct listing **l);
#define _cleanup_listing_ _cleanup_(listing_freep)

/* Add a row: one cell for each column, copied. NULL shows as "-". -ENOMEM, after which the listing
 * is still good to print or free. */
int listing_add(struct listing *l, const char *const *cells);
#define LISTING_ADD(l, ...) listing_add(l, (const char *const[]){__VA_ARGS__})
/* Order the rows by a column, rows that are equal there by another. */
void listing_sort(struct listing *l, size_t by, size_t then);
size_t listing_rows(const struct listing *l);
/* A cell as it will be shown; borrowed. */
const char *listing_cell(const struct listing *l, size_t row, size_t column);
void listing_print(const struct listing *l, FILE *f, bool terminal);

/* Fields are a listing of two columns without a heading: "label   value". */
int fields_new(struct listing **ret);
/* NULL or "" value: the field is left out. */
int fields_add(struct listing *l, const char *label, const char *value);
int fields_addf(struct listing *l, const char *label, const char *fmt, ...) _printf_(3, 4);

#endif
