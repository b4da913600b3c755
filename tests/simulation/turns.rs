//! Whose turn it is: one thread runs at a time, the seed says which, and time passes when nobody has anything to do.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use tidemark::threads::{self, Simulation};

use crate::draw::Draw;

/// The wall clock when a simulation begins: 1 January 2026, UTC.
const BEGIN_MS: i64 = 1_767_225_600_000;
/// The monitor that the one waits for who makes things happen.
const DRIVER: usize = 1;
/// The monitor that nobody ever changes.
const NOTHING: usize = 0;
/// Turns after which a simulation is taken to go round in circles.
const MOST_TURNS: u64 = 3_000_000;

/// What a killed thread unwinds with.
struct Killed;

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Could go on at any time.
    Ready,
    /// Waits for a monitor, or a time.
    Waiting(usize, Option<Duration>),
    Running,
    Ended,
}

struct Seat {
    process: usize,
    state: State,
    killed: bool,
    /// Its thread, once it has begun to wait for its first turn.
    thread: Option<Thread>,
    turn: Arc<AtomicBool>,
}

struct Core {
    seats: Vec<Seat>,
    now: Duration,
    draw: Draw,
    turns: u64,
    trace: u64,
    /// By process: until when none of its threads runs.
    paused: Vec<Duration>,
    /// Percent of calls after which somebody else may have a turn.
    restless: u64,
    panics: Vec<String>,
    handles: Vec<JoinHandle<()>>,
    story: Option<Vec<String>>,
}

/// The threads of one simulation.
pub(crate) struct Turns {
    core: Mutex<Core>,
    base: Instant,
}

thread_local! {
    static SEAT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// One thread's view of the simulation.
struct View(Arc<Turns>);

impl Turns {
    /// Begins a simulation with this thread as its first, process 0, which makes things happen.
    pub(crate) fn begin(seed: u64, with_story: bool) -> Arc<Self> {
        let mut draw = Draw::new(seed, 1);
        let restless = draw.one_of(&[2, 5, 10, 25]);
        let driver = Seat {
            process: 0,
            state: State::Running,
            killed: false,
            thread: Some(std::thread::current()),
            turn: Arc::new(AtomicBool::new(false)),
        };
        let core = Core {
            seats: vec![driver],
            now: Duration::ZERO,
            draw,
            turns: 0,
            trace: 0xcbf2_9ce4_8422_2325,
            paused: Vec::new(),
            restless,
            panics: Vec::new(),
            handles: Vec::new(),
            story: with_story.then(Vec::new),
        };
        let turns = Arc::new(Self { core: Mutex::new(core), base: Instant::now() });
        SEAT.set(0);
        threads::enter(Arc::new(View(Arc::clone(&turns))));
        turns
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap()
    }

    /// Returns the time since it began.
    pub(crate) fn now(&self) -> Duration {
        self.core().now
    }

    /// Lets time pass: what a call takes.
    pub(crate) fn works(&self, time: Duration) {
        self.core().now += time;
    }

    /// Notes what happens, so that two runs can be compared.
    pub(crate) fn trace(&self, what: &[u8]) {
        let mut core = self.core();
        let mut trace = core.trace;
        for byte in what {
            trace = (trace ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        core.trace = trace;
    }

    /// Returns what stands for all that was noted.
    pub(crate) fn traced(&self) -> (u64, u64) {
        let core = self.core();
        (core.trace, core.turns)
    }

    /// Adds a line to the story, if one is told.
    pub(crate) fn tell(&self, line: impl FnOnce() -> String) {
        let mut core = self.core();
        let now = core.now;
        if let Some(story) = &mut core.story {
            story.push(format!("{:>9.3} s  {}", now.as_secs_f64(), line()));
        }
    }

    /// Returns the story.
    pub(crate) fn story(&self) -> Vec<String> {
        self.core().story.take().unwrap_or_default()
    }

    /// Returns what threads panicked with.
    pub(crate) fn panics(&self) -> Vec<String> {
        self.core().panics.clone()
    }

    /// Whether it has gone on for longer than any should.
    pub(crate) fn is_endless(&self) -> bool {
        self.core().turns > MOST_TURNS
    }

    /// Draws a number that the run itself needs.
    pub(crate) fn draw<T>(&self, draw: impl FnOnce(&mut Draw) -> T) -> T {
        draw(&mut self.core().draw)
    }

    /// Returns a number for a new process.
    pub(crate) fn process(&self) -> usize {
        let mut core = self.core();
        core.paused.push(Duration::ZERO);
        core.paused.len()
    }

    /// Lets no thread of a process run until `until`.
    pub(crate) fn pause(&self, process: usize, until: Duration) {
        self.core().paused[process - 1] = until;
    }

    /// Whether a thread of the process is left.
    pub(crate) fn lives(&self, process: usize) -> bool {
        self.core().seats.iter().any(|seat| seat.process == process && seat.state != State::Ended)
    }

    /// Ends a process where it stands. Its threads unwind before anybody else has a turn.
    pub(crate) fn kill(&self, process: usize) {
        let mut core = self.core();
        core.paused[process - 1] = Duration::ZERO;
        for seat in &mut core.seats {
            seat.killed |= seat.process == process;
        }
        drop(core);
        self.changed_of(DRIVER);
    }

    /// Ends this thread's process where it stands.
    pub(crate) fn crash(&self) {
        let process = self.core().seats[SEAT.get()].process;
        self.kill(process);
        // Those that others wait for go first, so it may not be this one's turn yet.
        self.hand_over(self.core(), State::Ready);
    }

    /// Whether this thread has been killed.
    pub(crate) fn is_killed(&self) -> bool {
        self.core().seats[SEAT.get()].killed
    }

    /// The driver waits until it is called, or `until`.
    pub(crate) fn drive(&self, until: Duration) {
        self.wait_for(DRIVER, Some(until));
    }

    /// This thread does nothing for `time`.
    pub(crate) fn sleep(&self, time: Duration) {
        let until = self.now() + time;
        while self.now() < until && !self.is_killed() {
            self.wait_for(NOTHING, Some(until));
        }
    }

    /// Somebody else may have a turn.
    pub(crate) fn step(&self) {
        let mut core = self.core();
        let restless = core.restless;
        if core.draw.chance(restless) && !std::thread::panicking() {
            self.hand_over(core, State::Ready);
        }
    }

    /// Starts a thread of `process`.
    pub(crate) fn start(self: &Arc<Self>, process: usize, name: &str, body: Box<dyn FnOnce() + Send>) -> std::io::Result<JoinHandle<()>> {
        let turn = Arc::new(AtomicBool::new(false));
        let mut core = self.core();
        let number = core.seats.len();
        core.seats.push(Seat { process, state: State::Ready, killed: false, thread: None, turn: Arc::clone(&turn) });
        drop(core);
        let turns = Arc::clone(self);
        let work = move || {
            SEAT.set(number);
            await_turn(&turn);
            threads::enter(Arc::new(View(Arc::clone(&turns))));
            let end = if turns.is_killed() {
                drop(body);
                Ok(())
            } else {
                catch_unwind(AssertUnwindSafe(body))
            };
            turns.end(end);
        };
        let handle = std::thread::Builder::new().name(name.to_owned()).stack_size(512 << 10).spawn(work)?;
        self.core().seats[number].thread = Some(handle.thread().clone());
        Ok(handle)
    }

    /// Starts a thread that nobody else waits for.
    pub(crate) fn launch(self: &Arc<Self>, process: usize, name: &str, body: Box<dyn FnOnce() + Send>) {
        let handle = self.start(process, name, body).unwrap();
        self.core().handles.push(handle);
    }

    /// Waits for the system's threads; all have had their last turn.
    pub(crate) fn join(&self) {
        let handles = std::mem::take(&mut self.core().handles);
        for handle in handles {
            handle.join().unwrap();
        }
    }

    fn end(&self, end: Result<(), Box<dyn Any + Send>>) {
        let mut core = self.core();
        if let Err(panic) = end
            && !panic.is::<Killed>()
        {
            let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            core.panics.push(text.unwrap_or_default());
        }
        let me = SEAT.get();
        core.seats[me].state = State::Ended;
        for seat in &mut core.seats {
            if matches!(seat.state, State::Waiting(DRIVER, _)) {
                seat.state = State::Ready;
            }
        }
        let next = core.choose();
        core.give(next);
    }

    fn changed_of(&self, monitor: usize) {
        for seat in &mut self.core().seats {
            if matches!(seat.state, State::Waiting(its, _) if its == monitor) {
                seat.state = State::Ready;
            }
        }
    }

    fn wait_for(&self, monitor: usize, until: Option<Duration>) {
        let core = self.core();
        if core.seats[SEAT.get()].killed && std::thread::panicking() {
            return;
        }
        self.hand_over(core, State::Waiting(monitor, until));
    }

    fn hand_over<'a>(&'a self, mut core: MutexGuard<'a, Core>, state: State) {
        let me = SEAT.get();
        core.seats[me].state = state;
        let next = core.choose();
        if next == me {
            core.seats[me].state = State::Running;
        } else {
            let turn = Arc::clone(&core.seats[me].turn);
            core.give(next);
            drop(core);
            await_turn(&turn);
            core = self.core();
        }
        let is_killed = core.seats[me].killed;
        drop(core);
        if is_killed && !std::thread::panicking() {
            resume_unwind(Box::new(Killed));
        }
    }
}

fn await_turn(turn: &AtomicBool) {
    while !turn.swap(false, Ordering::Acquire) {
        std::thread::park();
    }
}

impl Core {
    /// Says who is next; lets time pass when nobody can go on.
    fn choose(&mut self) -> usize {
        self.turns += 1;
        // Who was killed unwinds at once, those first that others wait for.
        if let Some(killed) = self.seats.iter().rposition(|seat| seat.killed && seat.state != State::Ended) {
            return killed;
        }
        if self.turns > MOST_TURNS {
            return 0;
        }
        let mut able = Vec::with_capacity(self.seats.len());
        loop {
            let mut soonest: Option<Duration> = None;
            for (number, seat) in self.seats.iter().enumerate() {
                let paused = if seat.process == 0 { Duration::ZERO } else { self.paused[seat.process - 1] };
                let from = match seat.state {
                    State::Ready => Some(paused),
                    State::Waiting(_, until) => until.map(|until| until.max(paused)),
                    State::Running | State::Ended => None,
                };
                match from {
                    Some(from) if from <= self.now => able.push(number),
                    Some(from) => soonest = Some(soonest.map_or(from, |soonest| soonest.min(from))),
                    None => {}
                }
            }
            if !able.is_empty() {
                let next = able[usize::try_from(self.draw.below(able.len() as u64)).unwrap()];
                self.trace = (self.trace ^ next as u64).wrapping_mul(0x0100_0000_01b3);
                return next;
            }
            // The driver always waits for some time, so there is one.
            self.now = soonest.expect("somebody waits for a time");
        }
    }

    fn give(&mut self, next: usize) {
        let seat = &mut self.seats[next];
        seat.state = State::Running;
        seat.turn.store(true, Ordering::Release);
        if let Some(thread) = &seat.thread {
            thread.unpark();
        }
    }
}

impl Simulation for View {
    fn now(&self) -> Instant {
        self.0.base + self.0.now()
    }

    fn now_ms(&self) -> i64 {
        BEGIN_MS + i64::try_from(self.0.now().as_millis()).unwrap()
    }

    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> std::io::Result<JoinHandle<()>> {
        let process = self.0.core().seats[SEAT.get()].process;
        self.0.start(process, name, body)
    }

    fn wait(&self, monitor: usize, until: Option<Instant>) {
        self.0.wait_for(monitor, until.map(|until| until.saturating_duration_since(self.0.base)));
    }

    fn changed(&self, monitor: usize) {
        self.0.changed_of(monitor);
    }
}
