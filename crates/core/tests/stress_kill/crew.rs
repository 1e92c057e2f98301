// SPDX-License-Identifier: MIT
//! Workers, and who kills them and hires others.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use freethreading_core::family::Family;
use freethreading_core::storage::{Object, Shareable};

use crate::board::{Board, Life, MAX_LIVES, ORDER, Phase, SharedBoard};
use crate::support::{Child, Random, alone, exit_child, shared};

const SEED: &str = "FREETHREADING_STRESS_SEED";

/// Not a bound on speed: what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(50);

pub(crate) fn new<T: Shareable>() -> Object<T> {
    Object::new(shared()).expect("there is memory")
}

/// How often a test kills.
pub(crate) struct Plan {
    name: &'static str,
    kills: u32,
    limit: Duration,
}

/// What a test did in one round.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) kills: u32,
    /// Kills that hit what the test is about: a holder, a waiter.
    pub(crate) hits: u32,
}

impl Plan {
    pub(crate) fn short(name: &'static str) -> Self {
        Self {
            name,
            kills: 200,
            limit: Duration::from_secs(100),
        }
    }

    pub(crate) fn long(name: &'static str) -> Self {
        Self {
            name,
            kills: 4000,
            limit: Duration::from_secs(1800),
        }
    }

    /// Runs rounds of `round` until enough workers were killed.
    pub(crate) fn run(&self, round: fn(&mut Random) -> Tally) {
        let _alone = alone();
        let seed = seed();
        eprintln!("{SEED}={seed}");
        let (finished, watchdog) = channel::<()>();
        let (name, limit) = (self.name, self.limit);
        thread::spawn(move || {
            if watchdog.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                complain(&format!(
                    "{name} hangs outside its own waits; {SEED}={seed}"
                ));
                std::process::abort();
            }
        });
        let mut random = Random(seed);
        let mut all = Tally::default();
        while all.kills < self.kills {
            let tally = round(&mut random);
            all.kills += tally.kills;
            all.hits += tally.hits;
        }
        drop(finished);
        eprintln!("{} kills, {} of them hits", all.kills, all.hits);
        assert!(all.hits > 0, "it never killed whom it should");
    }
}

fn seed() -> u64 {
    let given = std::env::var(SEED).ok().map(|seed| seed.parse());
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = given.map_or_else(
        || clock.map_or(1, |now| u64::from(now.subsec_nanos())),
        |seed| seed.expect("the seed is a number"),
    );
    seed.max(1)
}

/// Not through `eprintln`, whose output the harness of a forked child keeps for ever.
fn complain(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// A worker, in its own process.
pub(crate) struct Worker<'a> {
    pub(crate) board: &'a Board,
    pub(crate) seat: usize,
    number: usize,
}

impl<'a> Worker<'a> {
    pub(crate) fn life(&self) -> &'a Life {
        &self.board.lives[self.number]
    }

    /// A name for the room.
    pub(crate) fn name(&self) -> u8 {
        u8::try_from(self.number + 1).expect("a board has few lives")
    }

    pub(crate) fn must_stop(&self) -> bool {
        self.board.stop.load(ORDER) != 0
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.life().enter(phase);
    }

    pub(crate) fn step(&self) {
        self.life().steps.fetch_add(1, ORDER);
    }

    /// Enters a room for `places`, from which only the dead may be pushed out; says whom.
    pub(crate) fn enter_room(&self, places: usize) -> Option<&'a Life> {
        let life = |name: u8| &self.board.lives[usize::from(name) - 1];
        let is_dead = |name| life(name).doom().is_some();
        match self.board.room.enter(places, self.name(), is_dead) {
            None => self.fail("more are inside than may be"),
            Some(0) => None,
            Some(dead) => Some(life(dead)),
        }
    }

    pub(crate) fn leave_room(&self) {
        self.check(
            self.board.room.leave(self.name()),
            "somebody took its place",
        );
    }

    pub(crate) fn check(&self, is_true: bool, what: &str) {
        if !is_true {
            self.fail(what);
        }
    }

    pub(crate) fn fail(&self, what: &str) -> ! {
        complain(&format!("worker {}: {what}; {}", self.number, self.board));
        self.board.failed.store(1, ORDER);
        exit_child(1)
    }

    fn work(&self, action: &dyn Fn(&Self)) {
        // SAFETY: no pointers. The kernel ends a worker when the thread of its test has ended.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        self.life().token.store(shared().me().bits(), ORDER);
        self.enter(Phase::Outside);
        if catch_unwind(AssertUnwindSafe(|| action(self))).is_err() {
            self.fail("it panicked");
        }
        self.enter(Phase::Done);
    }
}

/// A place for one worker at a time.
struct Seat {
    /// `None` if it was killed.
    child: Option<Child>,
    number: usize,
}

/// The workers, a seat each.
pub(crate) struct Crew<'a> {
    board: SharedBoard,
    seats: Vec<Seat>,
    hired: usize,
    action: &'a dyn Fn(&Worker<'_>),
    pub(crate) random: &'a mut Random,
}

impl<'a> Crew<'a> {
    pub(crate) fn start(
        seats: usize,
        random: &'a mut Random,
        action: &'a dyn Fn(&Worker<'_>),
    ) -> Self {
        let mut crew = Self {
            board: SharedBoard::new(),
            seats: Vec::new(),
            hired: 0,
            action,
            random,
        };
        for seat in 0..seats {
            let worker = crew.fork(seat);
            crew.seats.push(worker);
        }
        crew
    }

    fn fork(&mut self, seat: usize) -> Seat {
        let number = self.hired;
        assert!(number < MAX_LIVES, "too many for one board");
        self.hired += 1;
        let worker = Worker {
            board: &self.board,
            seat,
            number,
        };
        let child = Some(Child::fork(|| worker.work(self.action)));
        Seat { child, number }
    }

    pub(crate) fn board(&self) -> &Board {
        &self.board
    }

    /// The worker in a seat, or the last one there.
    pub(crate) fn life(&self, seat: usize) -> &Life {
        &self.board.lives[self.seats[seat].number]
    }

    /// A seat: every other time that of a worker in this phase, if there is one.
    pub(crate) fn pick(&mut self, phase: Phase) -> usize {
        let any = usize::try_from(self.random.below(self.seats.len() as u64)).expect("few");
        if self.random.below(2) == 0 {
            return any;
        }
        let in_phase = |&seat: &usize| self.life(seat).phase() == phase;
        (any..self.seats.len())
            .chain(0..any)
            .find(in_phase)
            .unwrap_or(any)
    }

    /// Lets the workers go on for a random while.
    pub(crate) fn let_work(&mut self) {
        let end = self.board.steps() + 1 + self.random.below(20);
        self.until("the workers go on", || self.board.steps() >= end);
        self.random.spin(Duration::from_micros(200));
    }

    /// Kills the worker in a seat, which stays empty until [`Crew::hire`].
    pub(crate) fn kill(&mut self, seat: usize) -> &Life {
        self.kill_together(&[seat]);
        self.life(seat)
    }

    /// Kills some at about the same time. Mostly the dead are buried at once; now and then they
    /// are left to those who find them.
    pub(crate) fn kill_together(&mut self, seats: &[usize]) {
        let mut victims = Vec::new();
        for &seat in seats {
            let victim = &mut self.seats[seat];
            self.board.announce_kill(victim.number);
            let child = victim.child.take().expect("it is alive");
            child.kill();
            victims.push(child);
        }
        for victim in victims {
            assert_eq!(victim.wait(), None, "it ended before it was killed");
        }
        if self.random.below(8) != 0 {
            Family::home().expect("it exists").reap_dead();
        }
    }

    pub(crate) fn hire(&mut self, seat: usize) {
        self.seats[seat] = self.fork(seat);
    }

    pub(crate) fn living(&self) -> impl Iterator<Item = &Life> {
        let lives = |seat: &Seat| seat.child.is_some();
        let seats = self.seats.iter().filter(move |seat| lives(seat));
        seats.map(|seat| &self.board.lives[seat.number])
    }

    /// Waits until each of the living has done something.
    pub(crate) fn until_all_step(&self) {
        let steps = || self.living().map(|life| life.steps.load(ORDER));
        let before: Vec<u64> = steps().collect();
        self.until("each worker goes on", || {
            steps().zip(&before).all(|(now, before)| now > *before)
        });
    }

    /// Waits for something observable.
    pub(crate) fn until(&self, what: &str, mut is_true: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_true() {
            let failed = self.board.failed.load(ORDER) != 0;
            assert!(!failed, "a worker found a fault: see stderr");
            assert!(Instant::now() < end, "never: {what}; {}", *self.board);
            thread::yield_now();
        }
    }

    /// Sends all home; `call` is to reach those who sleep.
    pub(crate) fn stop(mut self, call: impl Fn(&Self)) -> SharedBoard {
        self.board.stop.store(1, ORDER);
        call(&self);
        self.until("all workers have gone home", || {
            self.living().all(|life| life.phase() == Phase::Done)
        });
        for child in self.seats.iter_mut().filter_map(|seat| seat.child.take()) {
            assert_eq!(child.wait(), Some(0));
        }
        self.board
    }
}
