/* SPDX-License-Identifier: MIT */
/*
 * Pause and recovery of a postcopy, all orders of events (selftests/model/recover.sh).
 *
 * A source, the two threads of a destination, a guest that touches what is missing, and
 * nature, which takes directions of the connection away. What was sent and not read is
 * then read or lost, what is sent afterwards is lost, and each end notices when it likes.
 * Whoever manages them tries again as long as there is a way, or gives up.
 *
 * Wrong on purpose, for spin to find:
 *
 *	MARK_FIRST	a page is marked received before it is placed
 *	KEEP_ARRIVED	a run that is dropped keeps its pages from coming again
 *	KEEP_DIRTY	the source believes that what it sent has come
 *	ACK_LATE	the destination asks for pages before it has said RESUME_ACK
 *	LOOK_FIRST	a fault looks at the phase before it is written down
 *	NO_PARK		the fault thread is not waited for: its request may come upon the
 *			next connection
 *	RESUME_GUEST	the source runs its guest when the link breaks behind the switch
 *
 * NOT_AN_END=... forbids one of the ends that there may be: spin finds the way to it.
 */
#ifndef PAGES
#define PAGES 2 /* each is a block: a bitmap each */
#endif
#ifndef BREAKS
#define BREAKS 2
#endif
#define NONE 0
#define AT_START 1
#define AT_SWITCH 2
#ifndef URGENT
#define URGENT AT_SWITCH
#endif

mtype = { PRECOPY, SWITCHOVER, LISTENING, POSTCOPY, ENDING, PAUSED, RECOVER, DONE, FAILED,
	  CANCELLED };
mtype = { PACKAGE, PAGE, END, RECV_BITMAP, RESUME };
mtype = { REQUEST, BITMAP, RESUME_ACK, SHUT };

/* One connection at a time. Who begins a new one has seen the end of the one before. */
chan main = [2] of { mtype, byte };
chan urgent = [1] of { byte };
chan reply = [2] of { mtype, byte, bool };
bool forth = true, back = true; /* the main channel's directions */
bool urgent_up = URGENT == AT_START;
bool listening, dialed; /* the destination waits for the source; it came */
bool urgent_dialed = URGENT == AT_START;

mtype source = PRECOPY, dest = PRECOPY;
bool source_runs = true, dest_runs;
bool source_gave_up, dest_gave_up;
#ifdef NOT_AN_END
byte recovered;
#endif

/* The source */
bool dirty[PAGES];
bool wanted[PAGES];	/* the queue of requests */
bool source_urgent = URGENT == AT_START;

/* The destination */
bool placed[PAGES], received[PAGES], arrived[PAGES];
bool waits[PAGES];	/* a thread of the guest sleeps on it */
bool asked[PAGES];
bool requested[PAGES];	/* on this connection */
bool dest_urgent;	/* the fault thread reads the urgent channel */
bool park, parked;	/* the bulk thread wants the fault thread to; it did */
bool announced = true, faulting;

#define SOURCE_LOST (!forth || !back || source_urgent && !urgent_up)
#define DEST_LOST (!forth || !back || dest_urgent && !urgent_up)
#define PAGE_IS(p) p = 0; do :: p < PAGES - 1 -> p++ :: break od
#define ANY_WANTED (wanted[0] || wanted[PAGES - 1] || wanted[PAGES / 2])
#define ALL_SENT (!dirty[0] && !dirty[PAGES - 1] && !dirty[PAGES / 2])
#define ALL_IN (received[0] && received[PAGES - 1] && received[PAGES / 2])

/* Behind nfull(): what is said into a broken connection is gone */
inline say_main(what, which)
{
	if
	:: forth -> main!what(which)
	:: else
	fi
}

inline say_reply(what, which, value)
{
	if
	:: back -> reply!what(which, value)
	:: else
	fi
}

inline cut()
{
	forth = false;
	back = false;
	urgent_up = false
}

inline flush_main()
{
	do
	:: main?_, _
	:: empty(main) -> break
	od;
	do
	:: urgent?_
	:: empty(urgent) -> break
	od
}

inline flush_reply()
{
	do
	:: reply?_, _, _
	:: empty(reply) -> break
	od
}

/* It may take one direction, or the urgent channel alone. */
active proctype nature()
{
	byte left = BREAKS;

	do
	:: atomic { left && forth -> left--; forth = false }
	:: atomic { left && back -> left--; back = false }
	:: atomic { left && urgent_up -> left--; urgent_up = false }
	:: break
	od
}

active proctype source_thread()
{
	byte page, said, told;
	bool has;

	/* The guest runs here, and everything may be called off. */
	if
	:: atomic { source = CANCELLED; cut() } -> goto stop
	:: atomic { SOURCE_LOST -> source = FAILED; cut() } -> goto stop
	:: atomic { source = SWITCHOVER; source_runs = false }
	fi;
	if
	:: atomic { source = CANCELLED; source_runs = true; cut() } -> goto stop
	:: atomic { SOURCE_LOST -> source = FAILED; source_runs = true; cut() } -> goto stop
	:: atomic {
		nfull(main) -> source = POSTCOPY;
		do
		:: page < PAGES -> dirty[page] = true; page++
		:: else -> break
		od;
		page = 0;
		if
		:: URGENT == AT_SWITCH ->
			source_urgent = true;
			urgent_up = forth;
			urgent_dialed = true
		:: else
		fi;
		say_main(PACKAGE, 0)
	   }
	fi;

postcopy:
	do
	:: SOURCE_LOST -> goto pause
	:: atomic { reply?REQUEST(page, _) -> wanted[page] = dirty[page]; page = 0 }
	:: atomic {
		ANY_WANTED && (source_urgent && nfull(urgent) || !source_urgent && nfull(main)) ->
		do
		:: wanted[page] -> break
		:: else -> page++
		od;
		wanted[page] = false;
		if
		:: dirty[page] ->
			dirty[page] = false;
			if
			:: source_urgent && urgent_up -> urgent!page
			:: !source_urgent -> say_main(PAGE, page)
			:: else
			fi
		:: else
		fi;
		page = 0
	   }
	:: atomic {
		!ALL_SENT && nfull(main) ->
		do
		:: dirty[page] -> break
		:: else -> page++
		od;
		dirty[page] = false;
		say_main(PAGE, page);
		page = 0
	   }
	:: atomic { ALL_SENT && nfull(main) -> source = ENDING; say_main(END, 0) } -> break
	:: atomic { reply?[BITMAP, _, _] || reply?[RESUME_ACK, _, _] || reply?[SHUT, _, _] ->
		assert(false) }
	od;

	do
	:: SOURCE_LOST -> goto pause
	:: atomic { reply?REQUEST(page, _) -> page = 0 } /* it was sent */
	:: atomic { reply?SHUT(_, _) -> source = DONE } -> goto stop
	:: atomic { reply?[BITMAP, _, _] || reply?[RESUME_ACK, _, _] -> assert(false) }
	od;

pause:
	atomic {
		source = PAUSED;
		source_urgent = false;
#ifdef RESUME_GUEST
		source_runs = true;
#endif
		said = 0;
		told = 0;
		cut();
		flush_reply();
		do
		:: page < PAGES -> wanted[page] = false; page++
		:: else -> break
		od;
		page = 0
	}
end_paused:
	if
	:: atomic { source_gave_up = true } -> goto stop
	:: atomic { listening && URGENT != AT_START ->
		source = RECOVER; listening = false; dialed = true; forth = true; back = true }
	/* both at once, and either may be the first to be accepted */
	:: atomic { listening && URGENT == AT_START ->
		source = RECOVER; listening = false; dialed = true; forth = true; back = true } ->
		atomic { source_urgent = true; urgent_dialed = true; urgent_up = forth && back }
	:: atomic { listening && URGENT == AT_START ->
		source = RECOVER; urgent_dialed = true; urgent_up = true; source_urgent = true } ->
		atomic { listening = false; dialed = true; forth = urgent_up; back = urgent_up }
	fi;

	do
	:: SOURCE_LOST -> goto pause
	:: atomic { said < PAGES && nfull(main) -> say_main(RECV_BITMAP, said); said++ }
	:: atomic { reply?BITMAP(page, has) ->
		assert(page == told);
#ifndef KEEP_DIRTY
		dirty[page] = !has;
#endif
		told++;
		page = 0;
		has = false
	   }
	:: told == PAGES -> break
	:: atomic { reply?[REQUEST, _, _] || reply?[RESUME_ACK, _, _] || reply?[SHUT, _, _] ->
		assert(false) }
	od;
	if
	:: atomic { URGENT == AT_SWITCH ->
		source_urgent = true; urgent_dialed = true; urgent_up = forth && back }
	:: URGENT != AT_SWITCH
	fi;
	do
	:: SOURCE_LOST -> goto pause
	:: atomic { nfull(main) -> say_main(RESUME, 0) } -> break
	od;
	do
	:: SOURCE_LOST -> goto pause
	:: atomic { reply?RESUME_ACK(_, _) -> source = POSTCOPY;
#ifdef NOT_AN_END
		recovered++
#endif
	   } -> goto postcopy
	:: atomic { reply?[REQUEST, _, _] || reply?[BITMAP, _, _] || reply?[SHUT, _, _] ->
		assert(false) }
	od;
stop:
	skip
}

/* A page that has come on a channel, in `run`: whoever sets its arrived bit places it. */
inline arrive(page, held)
{
	if
	:: arrived[page]
	:: else -> arrived[page] = true; held = page
	fi
}

#ifdef MARK_FIRST
#define FIRST(page) received[page] = true
#define SECOND(page) placed[page] = true; waits[page] = false
#else
#define FIRST(page) placed[page] = true; waits[page] = false
#define SECOND(page) received[page] = true
#endif
#define NOTHING 255

/* The link is gone, and what was not placed yet with it. */
inline drop(held)
{
	if
	:: held != NOTHING ->
#ifndef KEEP_ARRIVED
		arrived[held] = false;
#endif
		held = NOTHING
	:: else
	fi
}

/* Bulk thread: the main channel, and every move of the phase */
active proctype dest_bulk()
{
	byte page, held = NOTHING;

	if
	:: atomic { DEST_LOST -> dest = FAILED; cut(); flush_main() } -> goto stop
	:: atomic { main?PACKAGE(_) -> dest = LISTENING }
	fi;
	/* device state is being loaded: nothing has run yet */
	if
	:: atomic { DEST_LOST -> dest = FAILED; cut(); flush_main() } -> goto stop
	:: atomic { dest = POSTCOPY; dest_runs = true }
	fi;

running:
	do
	:: DEST_LOST -> goto pause
	:: atomic { held == NOTHING && main?[PAGE, _] -> main?PAGE(page); arrive(page, held); page = 0 }
	:: held != NOTHING -> break
	:: atomic { held == NOTHING && main?[END, _] -> main?END(_); dest = ENDING } -> goto ending
	:: atomic { main?[PACKAGE, _] || main?[RECV_BITMAP, _] || main?[RESUME, _] -> assert(false) }
	od;
	if
	:: DEST_LOST -> goto pause
	:: atomic { FIRST(held) }
	fi;
#ifdef MARK_FIRST
	if
	:: DEST_LOST -> goto pause
	:: atomic { SECOND(held); held = NOTHING }
	fi;
#else
	atomic { SECOND(held); held = NOTHING };
#endif
	goto running;

ending:
	if
	:: DEST_LOST -> goto pause
	:: atomic { ALL_IN && nfull(reply) -> dest = DONE; say_reply(SHUT, 0, false) } -> goto stop
	fi;

pause:
	atomic {
		dest = PAUSED;
		announced = false;
		park = true;
		dialed = false;
		urgent_dialed = false;
		cut();
		flush_main();
		drop(held);
		page = 0;
		do
		:: page < PAGES -> requested[page] = false; page++
		:: else -> break
		od;
		page = 0
	}
#ifndef NO_PARK
	/* the fault thread is in no fault, has closed its channel and dropped what was on it */
	parked;
#endif
end_paused:
	if
	:: atomic { dest_gave_up = true } -> goto stop
	:: atomic { listening = true; park = false; parked = false }
	fi;
end_listening:
	atomic { dialed -> dialed = false; dest = RECOVER };

	do
	:: DEST_LOST -> goto pause
	:: atomic { main?[RECV_BITMAP, _] && nfull(reply) ->
		main?RECV_BITMAP(page); say_reply(BITMAP, page, received[page]); page = 0 }
	:: atomic { main?RESUME(_) } -> break
	:: atomic { main?[PACKAGE, _] || main?[PAGE, _] || main?[END, _] -> assert(false) }
	od;
#ifdef ACK_LATE
	dest = POSTCOPY;
#endif
	do
	:: DEST_LOST -> goto pause
	:: atomic { nfull(reply) -> say_reply(RESUME_ACK, 0, false) } -> break
	od;
	dest = POSTCOPY;
	/* Asked for again, with the phase set: a fault that comes now asks for itself. */
	do
	:: DEST_LOST -> goto pause
	:: atomic { page < PAGES && asked[page] && !received[page] && nfull(reply) ->
		say_reply(REQUEST, page, false); requested[page] = true; page++ }
	:: atomic { page < PAGES && (!asked[page] || received[page]) -> page++ }
	:: atomic { page == PAGES -> page = 0; announced = true } -> break
	od;
	goto running;
stop:
	skip
}

/* Fault thread: the guest's faults, and the urgent channel */
active proctype dest_fault()
{
	byte page, held = NOTHING;
	bool ask;

end_idle:
	do
	/* A page that is there is never touched here again: the guest need not end. */
	:: atomic { dest_runs && dest != DONE && !placed[0] && !waits[0] -> waits[0] = true;
		page = 0; faulting = true } -> goto fault
	:: atomic { dest_runs && dest != DONE && !placed[PAGES - 1] && !waits[PAGES - 1] ->
		waits[PAGES - 1] = true; page = PAGES - 1; faulting = true } -> goto fault
	:: atomic { dest_runs && urgent_dialed && !dest_urgent && !park ->
		urgent_dialed = false; dest_urgent = true }
	:: atomic { dest_urgent && !park && nempty(urgent) -> urgent?page; arrive(page, held); page = 0;
		if
		:: held != NOTHING -> goto place
		:: else
		fi }
	:: atomic { park && !parked -> dest_urgent = false; parked = true }
	od;

place:
	if
	:: atomic { park -> drop(held) } -> goto end_idle
	:: atomic { FIRST(held) }
	fi;
#ifdef MARK_FIRST
	if
	:: atomic { park -> drop(held) } -> goto end_idle
	:: atomic { SECOND(held); held = NOTHING }
	fi;
#else
	atomic { SECOND(held); held = NOTHING };
#endif
	goto end_idle;

fault:
#ifdef LOOK_FIRST
	ask = dest == POSTCOPY || dest == ENDING;
	asked[page] = true;
#else
	asked[page] = true;
	ask = dest == POSTCOPY || dest == ENDING;
#endif
	if
	:: atomic { ask && !received[page] && !arrived[page] && nfull(reply) ->
		say_reply(REQUEST, page, false); requested[page] = true }
	:: !ask || received[page] || arrived[page] || DEST_LOST
	fi;
	atomic { page = 0; ask = false; faulting = false };
	goto end_idle
}

/* What may never be, whatever else happens */
active proctype never_both()
{
end:
	if
	:: atomic { received[0] && !placed[0] -> assert(false) }
	:: atomic { received[PAGES - 1] && !placed[PAGES - 1] -> assert(false) }
	:: atomic { source_runs && dest_runs -> assert(false) }
	/* a page is waited for, and nobody has told the source */
	:: atomic { (dest == POSTCOPY || dest == ENDING) && announced && !faulting && !DEST_LOST &&
		(waits[0] && !requested[0] && !arrived[0] ||
		 waits[PAGES - 1] && !requested[PAGES - 1] && !arrived[PAGES - 1]) ->
		assert(false) }
	fi
}

/* Nobody can do anything any more: is it an end that there may be? */
active proctype judge()
{
	bool before, package_lost, done, last_word_lost, given_up;
#ifdef NOT_AN_END
	bool recovered_twice;
#endif

end:
	timeout ->
	atomic {
		/* the source has the guest, the destination never ran it */
		before = (source == CANCELLED || source == FAILED) && dest == FAILED &&
			 source_runs && !dest_runs;
		/* nobody knows at the source: it stays stopped there */
		package_lost = source == PAUSED && dest == FAILED && !source_runs && !dest_runs;
		done = source == DONE && dest == DONE;
		last_word_lost = source == PAUSED && dest == DONE;
		given_up = source == PAUSED && dest == PAUSED && (source_gave_up || dest_gave_up);
		assert(before || package_lost || done || last_word_lost || given_up);
#ifdef NOT_AN_END
		recovered_twice = done && recovered == 2;
		assert(!NOT_AN_END);
#endif
		if
		:: dest == DONE ->
			assert(ALL_IN && !waits[0] && !waits[PAGES - 1])
		:: else
		fi
	}
}
