/* SPDX-License-Identifier: MIT */
/*
 * Checkpoints: source, destination, the links between them, and a manager who decides.
 *
 * Links lose everything from some moment on, in one direction or in both; either end may take a
 * silent peer for lost at any time, whether it is or not; either may die. With -DOWN nobody tells
 * the destination to run: it does by itself.
 *
 * Looked at, where it happens:
 *	I1, I8	what is let go is known to whoever can still run, or nobody can
 *	I3	an acknowledgement names the epoch that is waited for
 *	I5	it runs from what is complete and in place
 *	I7	nothing is acknowledged behind the decision to run; who was told that the other
 *		goes on never does
 * and never two guests are seen. Whatever nobody decides about stays held.
 *
 * What is wrong on purpose, each to be found: RELEASE_LOST, COMMIT_LATE, ACK_FIRST, ACK_AFTER,
 * BYE_UNANSWERED, MANAGER_GUESSES, NO_GENERATION, DEGRADED_RELEASES, DEGRADED_ACKED.
 */
#ifndef EPOCHS
#define EPOCHS 3
#endif

mtype = { BEGIN, COMMIT, ACK, NACK, DEGRADE, BYE, BYE_ACK, NOTICE };
mtype = { SYNC, ARMED, RUN, WAIT_ACK, DEGRADED, LEAVING, HOLD, FENCED, RELEASED,
	  READY, RECEIVING, COMPLETE, SUSPECT, APPLYING, TAKEOVER };

/* kind, generation, epoch */
chan to_dest = [3] of { mtype, byte, byte };
chan to_source = [4] of { mtype, byte, byte };
bool cut_dest, cut_source;	/* what is sent there is lost */

bool source_dead, dest_dead;
mtype source = SYNC, dest = SYNC;
byte generation = 1;		/* the destination's */
byte complete;			/* epoch that the destination can run from; 0: none */
bool in_place = true;
byte released;			/* epoch up to which output was let go */
bool opened;			/* ... and all of it: nothing is held any more */

/* May the destination come to run, now or later? */
#define can_run (!dest_dead && dest != FENCED && (complete || coming))
bool coming;			/* COMMIT of the first one was said */

/* Somebody who is fenced is not asked, and a link that is cut takes everything */
#define TO_DEST(kind, epoch)						\
	if								\
	:: cut_dest							\
	:: !cut_dest && nfull(to_dest) -> to_dest!kind,1,epoch		\
	fi
#define TO_SOURCE(kind, epoch)						\
	if								\
	:: cut_source							\
	:: !cut_source && nfull(to_source) -> to_source!kind,generation,epoch	\
	fi

inline let_go(epoch)
{
	assert(!can_run || complete >= epoch);
	released = epoch
}

inline open_gate()
{
	assert(!can_run);
	assert(dest != TAKEOVER || dest_dead);
	opened = true
}

active proctype the_source()
{
	byte epoch = 1, e, g, tries;
	byte closed;		/* and not released; 0: none */
	bool committed, held;

	/* all of memory, while nothing is held */
	if
	:: !source_dead -> TO_DEST(BEGIN, 1)
	:: source_dead -> goto end
	fi;
	atomic { source = ARMED; held = true }
	do
	:: source_dead -> goto end
	:: else ->
		/* held, and nobody decides: that is an end as well */
end_held:	if
		:: source_dead -> goto end
		:: (source == ARMED || source == RUN || source == DEGRADED) && epoch <= EPOCHS ->
			/* the guest stands still: the epoch is closed, its pages are copied */
			assert(!closed || source == DEGRADED && closed == epoch);
			closed = epoch;
			tries = 0;
			if
			:: epoch > 1 && source != DEGRADED -> TO_DEST(BEGIN, epoch)
			:: else
			fi;
send:
#ifdef COMMIT_LATE
			TO_DEST(COMMIT, epoch);
			/* here a lost link would be taken for one before it */
			if
			:: epoch == 1 && !committed -> atomic { source = RELEASED; open_gate() }; goto end
			:: true -> committed = true; coming = true
			fi;
#else
			atomic { committed = true; coming = true };
			TO_DEST(COMMIT, epoch);
#endif
			source = WAIT_ACK
		/* more than there is room for, seen in the stop or before: it goes in parts */
		:: source == RUN && epoch <= EPOCHS ->
			if
			:: closed = epoch
			:: true
			fi;
			TO_DEST(DEGRADE, epoch);
			TO_DEST(BEGIN, epoch);
#ifdef DEGRADED_RELEASES
			atomic { let_go(epoch); closed = 0 };
#endif
			source = DEGRADED
		:: source == RUN || source == DEGRADED ->
			TO_DEST(BYE, epoch);
#ifdef BYE_UNANSWERED
			atomic { source = RELEASED; open_gate() }; goto end
#else
			source = LEAVING
#endif
		:: atomic { source == WAIT_ACK && !source_dead && to_source?[ACK,_,_] ->
				to_source?ACK,g,e;
				assert(g == 1);
				assert(e == epoch);
				let_go(e);
				closed = 0;
				epoch++;
				source = RUN
			}
		:: source == WAIT_ACK && to_source?[NACK,_,_] ->
			to_source?NACK,g,e;
			if
			:: epoch == 1 -> atomic {
				/* what was refused cannot be run from */
				coming = false; source = RELEASED; open_gate()
			   }; goto end
			:: epoch > 1 && tries < 1 ->
				tries++;
				TO_DEST(BEGIN, epoch);
				goto send
			:: epoch > 1 && tries >= 1 -> source = HOLD
			fi
		:: atomic { source == LEAVING && !source_dead && to_source?[BYE_ACK,_,_] ->
			to_source?BYE_ACK,g,e; source = RELEASED; open_gate() }; goto end
		:: atomic { source != RELEASED && source != FENCED && to_source?[NOTICE,_,_] ->
			to_source?NOTICE,g,e; assert(g > 1); source = FENCED }; goto end
		/* silent for longer than the lease, or its answer is owed for too long */
		:: atomic { source != HOLD && source != RELEASED && source != FENCED && !source_dead ->
			cut_source = true;
			cut_dest = true;
			if
#ifdef RELEASE_LOST
			:: source = RELEASED; open_gate()
#else
			:: !committed -> source = RELEASED; open_gate()
			:: committed -> source = HOLD
#endif
			fi }
		/* the manager has */
		:: source == RELEASED || source == FENCED -> goto end
		fi
	od;
end:	skip
}

inline drop_partial()
{
	part = 0
}

active proctype the_destination()
{
	byte e, g, part;

	do
	:: dest_dead -> goto end
	:: dest == FENCED || dest == TAKEOVER -> goto end
	:: else ->
end_suspect:	if
		:: dest_dead || dest == FENCED -> goto end
		:: atomic { (dest == SYNC || dest == READY || dest == RECEIVING) &&
			    to_dest?[BEGIN,_,_] ->
			to_dest?BEGIN,g,e;
			assert(e == complete + 1);
			part = e;
			dest = (dest == READY -> RECEIVING : dest) }
		:: atomic { dest == READY && to_dest?[DEGRADE,_,_] ->
			to_dest?DEGRADE,g,e;
#ifdef DEGRADED_ACKED
			TO_SOURCE(ACK, e);
#endif
			assert(e == complete + 1) }
		:: (dest == SYNC || dest == RECEIVING) && part && to_dest?[COMMIT,_,_] ->
			to_dest?COMMIT,g,e;
			assert(e == part);
#ifdef ACK_FIRST
			TO_SOURCE(ACK, e);
#endif
			/* behind the last one's being put in place; the decision may come first */
			if
			:: atomic { in_place && (dest == SYNC || dest == RECEIVING) ->
				dest = COMPLETE }
			:: dest == APPLYING || dest == SUSPECT || dest == FENCED || dest_dead
			fi;
			if
			:: dest == COMPLETE ->
				if
				:: atomic { dest == COMPLETE && !dest_dead -> complete = e; in_place = false;
					    part = 0; dest = READY;
#ifndef ACK_FIRST
					    TO_SOURCE(ACK, e)
#endif
				   }
				:: atomic { dest == COMPLETE && !dest_dead -> part = 0;
					    dest = (complete -> READY : SYNC);
					    TO_SOURCE(NACK, e) }
				:: dest != COMPLETE || dest_dead
				fi
			:: dest != COMPLETE -> drop_partial()
			fi
		:: atomic { (dest == SYNC || dest == READY || dest == RECEIVING) && to_dest?[BYE,_,_] ->
			to_dest?BYE,g,e; dest = FENCED;
			TO_SOURCE(BYE_ACK, e) }
		/* silent for longer than the lease */
		:: atomic { dest == READY || dest == RECEIVING || dest == COMPLETE ->
			drop_partial(); dest = SUSPECT; cut_dest = true; cut_source = true }
		:: atomic { dest == SYNC -> dest = FENCED; cut_dest = true; cut_source = true }
#ifdef OWN
		:: atomic { dest == SUSPECT && !dest_dead -> dest = APPLYING; generation = 2 }
#endif
		:: atomic { dest == APPLYING && in_place && !dest_dead ->
				assert(complete);
				assert(in_place);
				assert(!opened);
				assert(released <= complete);
				dest = TAKEOVER;
				/* whoever still speaks with the old generation is told */
				TO_SOURCE(NOTICE, complete)
			}
#ifdef ACK_AFTER
		:: dest == APPLYING && to_dest?[COMMIT,_,_] ->
			to_dest?COMMIT,g,e;
			generation = 1;
			TO_SOURCE(ACK, e)
#endif
		fi
	od;
end:	skip
}

/* The last complete one is put in place, in its own time */
active proctype the_applier()
{
end:	do
	:: atomic { !in_place -> in_place = true }
	od
}

/* Decisions, each on what is known and not on silence */
active proctype the_manager()
{
	do
#ifndef OWN
	/* the destination is to run; then the source is told, if there is one */
	:: atomic { !dest_dead && complete &&
		    (dest == READY || dest == RECEIVING || dest == COMPLETE || dest == SUSPECT) ->
#ifndef NO_GENERATION
			generation = 2;
#endif
			dest = APPLYING }
#endif
	:: atomic { !dest_dead && (dest == READY || dest == RECEIVING || dest == COMPLETE ||
				   dest == SUSPECT) -> dest = FENCED }
	:: atomic { !source_dead && source == HOLD && !dest_dead &&
		    (dest == TAKEOVER || dest == APPLYING) -> source = FENCED }
#ifdef MANAGER_GUESSES
	:: atomic { !source_dead && source == HOLD && dest == SUSPECT ->
			source = RELEASED; open_gate() }
#endif
	:: atomic { !source_dead && source == HOLD && (dest_dead || dest == FENCED) ->
			source = RELEASED; open_gate() }
	:: break
	od
}

/* What goes wrong, at any moment, or does not */
active proctype the_world()
{
	do
	:: cut_dest = true
	:: cut_source = true
	:: !source_dead -> source_dead = true
	:: !dest_dead && dest != TAKEOVER -> dest_dead = true
	:: break
	od
}

/* Never two that are seen */
active proctype the_outside()
{
	assert(!(dest == TAKEOVER && !dest_dead && opened && !source_dead))
}
