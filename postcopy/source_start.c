/* SPDX-License-Identifier: MIT */
#include "postcopy/source_internal.h"

static void put_head(struct source *source, struct batch *batch)
{
	const struct source_config *config = &source->config;
	struct wire_name ram;
	uint64_t total = 0;

	batch_commit(batch, stream_put_header(batch_arena(batch)));
	if (config->machine.length)
		batch_commit(batch, stream_put_config(batch_arena(batch), &config->machine));
	if (source->return_path) {
		batch_bare_command(batch, CMD_OPEN_RETURN_PATH);
		batch_ping(batch, 1);
		if (config->postcopy && (config->urgent != WH_URGENT_OFF || source->ops->random))
			batch_ping(batch, PING_WHO);
	}
	if (config->postcopy) {
		struct cmd_msg msg = { .kind = CMD_POSTCOPY_ADVISE };

		msg.advise.target_page = TARGET_PAGE;
		for (unsigned i = 0; i < source->blocks; i++)
			msg.advise.page_sizes |= source->block[i].region->page_size;
		batch_command(batch, &msg, NULL);
	}
	wire_name_set(&ram, "ram");
	batch_commit(batch, stream_put_start(batch_arena(batch), SECTION_START, SECTION_RAM_ID,
					     &ram, 0, STREAM_RAM_VERSION));
	for (unsigned i = 0; i < source->blocks; i++)
		total += source->block[i].region->length;
	batch_commit(batch, ram_put_total(batch_arena(batch), total));
}

/* A list of many long names does not fit into one batch: it comes in as many as it takes. */
int source_start(struct source *source, uint64_t now_ns, struct batch *batch)
{
	const size_t line_max = 1 + 255 + 8 + 8;

	if (!source->start_begun) {
		put_head(source, batch);
		source->start_begun = true;
	}
	while (source->start_block < source->blocks) {
		const struct source_block *b = &source->block[source->start_block];
		struct ram_block line = { .name = b->name, .used = b->region->length };

		if (!batch_room(batch, 2, line_max + PART_TAIL))
			return source_send(source, batch, false);
		if (source->config.postcopy && b->region->page_size != TARGET_PAGE)
			line.page_size = b->region->page_size;
		batch_commit(batch, ram_put_block(batch_arena(batch), &line));
		source->start_block++;
	}
	if (source->config.beside)
		source_beside_begin(source, batch, BESIDE_LIST);
	else
		source_part_end(source, batch, true);
	source->start_sent = true;
	source_round_begin(source, now_ns);
	source->step = STEP_ROUND;
	return source_send(source, batch, false);
}
