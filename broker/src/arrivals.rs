//! Connections are read in the order in which their bytes arrived.
//!
//! A program that subscribes on one connection and then publishes on another expects to be heard
//! by itself, although nothing in the protocol says so. Several workers, and a runtime that runs
//! first what was woken last, would turn the two round. So every wake takes a number, and who has
//! a later one lets the earlier ones read first; what was read is still acted on side by side, a
//! SUBSCRIBE excepted.
//!
//! Who is in the middle of a stream of messages takes no number, so that many busy publishers
//! do not queue for each other.
//!
//! This is a courtesy: who is waited for too long loses its place, and nobody waits longer than a
//! twentieth of a second.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Wake, Waker},
    time::{Duration, Instant},
};

use tokio::time::Sleep;

use crate::lock::lock;

/// Numbers remembered; who is further behind is not waited for.
const PLACES: usize = 1024;
/// How often a connection lets others run before it sleeps.
const YIELDS_MAX: u8 = 16;
/// How long it then sleeps, for those whose worker is not running, and how often.
const NAP: Duration = Duration::from_millis(1);
const NAPS_MAX: u8 = 20;
/// So many reads of nothing but messages, each so soon after the one before, are a stream.
const STREAM_READS: u64 = 8;
const STREAM_PAUSE_MAX_MS: u64 = 5;

/// The numbers of one broker.
#[derive(Debug)]
pub(crate) struct Arrivals {
    next: AtomicU64,
    /// All before this one are served.
    served: AtomicU64,
    /// At `number % PLACES`, the newest number served.
    places: Box<[AtomicU64]>,
    started: Instant,
}

impl Arrivals {
    pub(crate) fn new() -> Self {
        let places = std::iter::repeat_with(AtomicU64::default).take(PLACES).collect();
        let (next, served) = (AtomicU64::new(1), AtomicU64::new(1));
        Self { next, served, places, started: Instant::now() }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn take_number(&self) -> u64 {
        self.next.fetch_add(1, SeqCst)
    }

    fn place(&self, number: u64) -> &AtomicU64 {
        &self.places[number as usize % PLACES]
    }

    fn serve(&self, number: u64) {
        self.place(number).fetch_max(number, SeqCst);
    }

    /// The first one before `number` that is not served.
    fn first_before(&self, number: u64) -> Option<u64> {
        let known = self.served.load(SeqCst);
        let mut first = known.max(number.saturating_sub(PLACES as u64));
        while first < number && self.place(first).load(SeqCst) >= first {
            first += 1;
        }
        if first > known {
            self.served.fetch_max(first, SeqCst);
        }
        (first < number).then_some(first)
    }
}

/// What wakes one connection to read.
#[derive(Debug)]
struct Bell {
    arrivals: Arc<Arrivals>,
    /// 0: not woken since the last read.
    number: AtomicU64,
    /// Reads of the present stream, and when the last one was.
    stream: AtomicU64,
    read_at_ms: AtomicU64,
    task: Mutex<Option<Waker>>,
}

impl Bell {
    fn is_fresh(&self, now_ms: u64) -> bool {
        now_ms <= self.read_at_ms.load(Relaxed) + STREAM_PAUSE_MAX_MS
    }

    fn is_streaming(&self) -> bool {
        self.stream.load(Relaxed) >= STREAM_READS && self.is_fresh(self.arrivals.now_ms())
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let task = lock(&self.task);
        // Without a task the connection is over.
        let Some(task) = &*task else { return };
        if self.number.load(SeqCst) == 0 && !self.is_streaming() {
            self.number.store(self.arrivals.take_number(), SeqCst);
        }
        task.wake_by_ref();
    }
}

/// A connection's place among those that are to be read.
#[derive(Debug)]
pub(crate) struct Turnstile {
    bell: Arc<Bell>,
    waker: Waker,
    /// The number of the read that is going on.
    reading: u64,
    yields: u8,
    naps: u8,
    nap: Option<Pin<Box<Sleep>>>,
}

impl Turnstile {
    pub(crate) fn new(arrivals: Arc<Arrivals>) -> Self {
        let bell = Arc::new(Bell {
            arrivals,
            number: AtomicU64::new(0),
            stream: AtomicU64::new(0),
            read_at_ms: AtomicU64::new(0),
            task: Mutex::default(),
        });
        let waker = bell.clone().into();
        Self { bell, waker, reading: 0, yields: 0, naps: 0, nap: None }
    }

    /// What has to be woken when there is something to read.
    pub(crate) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Must this connection let others read first? It is woken again then.
    pub(crate) fn must_wait(&mut self, context: &mut Context<'_>) -> bool {
        self.listen(context);
        let arrivals = &self.bell.arrivals;
        let own = match self.bell.number.load(SeqCst) {
            0 => arrivals.next.load(SeqCst),
            number => number,
        };
        let Some(first) = arrivals.first_before(own) else {
            self.pass();
            return false;
        };
        if self.yields < YIELDS_MAX {
            self.yields += 1;
            context.waker().wake_by_ref();
            return true;
        }
        let nap = self.nap.get_or_insert_with(|| Box::pin(tokio::time::sleep(NAP)));
        if nap.as_mut().poll(context).is_pending() {
            return true;
        }
        self.nap = None;
        self.naps += 1;
        if self.naps < NAPS_MAX {
            context.waker().wake_by_ref();
            return true;
        }
        // Neither this one nor anybody else waits for it again.
        arrivals.serve(first);
        self.pass();
        false
    }

    fn listen(&self, context: &mut Context<'_>) {
        let mut task = lock(&self.bell.task);
        if !task.as_ref().is_some_and(|task| task.will_wake(context.waker())) {
            *task = Some(context.waker().clone());
        }
    }

    /// Goes through to read.
    fn pass(&mut self) {
        (self.yields, self.naps, self.nap) = (0, 0, None);
        self.reading = self.bell.number.swap(0, SeqCst);
    }

    /// The read is over.
    pub(crate) fn release(&mut self) {
        let number = std::mem::take(&mut self.reading);
        if number > 0 {
            self.bell.arrivals.serve(number);
        }
    }

    /// Something was read that may be acted on while others are read, but for a SUBSCRIBE. Only
    /// messages and acknowledgements make a stream, and anything else ends it: who subscribes and
    /// unsubscribes in turn is to be heard in its place.
    pub(crate) fn note(&mut self, first_byte: u8, goes_on: bool) {
        match first_byte >> 4 {
            _ if goes_on => self.flow(),
            3..=7 => self.flow(),
            8 => self.bell.stream.store(0, Relaxed),
            _ => {
                self.bell.stream.store(0, Relaxed);
                self.release();
            }
        }
    }

    fn flow(&mut self) {
        let bell = &self.bell;
        let now_ms = bell.arrivals.now_ms();
        let reads = if bell.is_fresh(now_ms) { bell.stream.load(Relaxed) + 1 } else { 1 };
        bell.stream.store(reads, Relaxed);
        bell.read_at_ms.store(now_ms, Relaxed);
        self.release();
    }

    /// This connection does not read at present: nobody need wait for it.
    pub(crate) fn step_aside(&mut self) {
        self.pass();
        self.release();
    }
}

impl Drop for Turnstile {
    fn drop(&mut self) {
        *lock(&self.bell.task) = None;
        self.release();
        self.step_aside();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn waits(turnstile: &mut Turnstile) -> bool {
        turnstile.must_wait(&mut Context::from_waker(Waker::noop()))
    }

    /// Two connections that have been polled once, so that they can be woken.
    fn two() -> (Turnstile, Turnstile) {
        let arrivals = Arc::new(Arrivals::new());
        let (mut first, mut second) = (Turnstile::new(arrivals.clone()), Turnstile::new(arrivals));
        for turnstile in [&mut first, &mut second] {
            assert!(!waits(turnstile));
            turnstile.release();
        }
        (first, second)
    }

    #[test]
    fn who_was_woken_later_waits_until_the_earlier_one_is_served() {
        let (mut first, mut second) = two();
        first.waker().wake();
        second.waker().wake();
        assert!(waits(&mut second));
        assert!(!waits(&mut first));
        assert!(waits(&mut second), "the first one is reading, and not done");
        first.release();
        assert!(!waits(&mut second));
    }

    #[test]
    fn who_is_gone_or_does_not_read_is_not_waited_for() {
        let (mut first, mut second) = two();
        first.waker().wake();
        second.waker().wake();
        assert!(waits(&mut second));
        first.step_aside();
        assert!(!waits(&mut second));
        second.release();
        first.waker().wake();
        second.waker().wake();
        let late = first.waker();
        drop(first);
        late.wake();
        assert!(!waits(&mut second));
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_too_long_loses_its_place() {
        let (first, mut second) = two();
        first.waker().wake();
        second.waker().wake();
        let start = tokio::time::Instant::now();
        std::future::poll_fn(|context| match second.must_wait(context) {
            true => std::task::Poll::Pending,
            false => std::task::Poll::Ready(()),
        })
        .await;
        assert!(start.elapsed() < Duration::from_millis(100));
        second.release();
        second.waker().wake();
        assert!(!waits(&mut second), "nobody waits for it again");
    }

    #[test]
    fn a_wake_reaches_the_task_and_is_numbered_once() {
        let arrivals = Arc::new(Arrivals::new());
        let (mut turnstile, count) = (Turnstile::new(arrivals.clone()), Arc::new(Count::default()));
        let task: Waker = count.clone().into();
        turnstile.must_wait(&mut Context::from_waker(&task));
        turnstile.release();
        turnstile.waker().wake();
        turnstile.waker().wake_by_ref();
        assert_eq!(count.0.load(SeqCst), 2);
        assert_eq!(arrivals.next.load(SeqCst), 2);
    }

    #[test]
    fn who_is_in_the_middle_of_a_stream_is_not_waited_for_until_it_rests() {
        let (mut first, mut second) = two();
        let wake = |turnstile: &Turnstile| turnstile.waker().wake();
        for _ in 0..STREAM_READS {
            wake(&first);
            assert!(!waits(&mut first));
            first.note(0x30, false);
            // However slow this machine is.
            first.bell.read_at_ms.store(u64::MAX / 2, Relaxed);
        }
        wake(&first);
        wake(&second);
        assert!(!waits(&mut second));
        second.release();
        first.note(0xC0, false);
        wake(&first);
        wake(&second);
        assert!(waits(&mut second), "anything else ends a stream");
        first.step_aside();
        second.step_aside();
        first.bell.stream.store(STREAM_READS, Relaxed);
        first.bell.read_at_ms.store(0, Relaxed);
        while first.bell.is_fresh(first.bell.arrivals.now_ms()) {
            std::thread::yield_now();
        }
        wake(&first);
        wake(&second);
        assert!(waits(&mut second));
    }

    #[test]
    fn numbers_go_round_and_round() {
        let (mut first, mut second) = two();
        for _ in 0..5 * PLACES {
            second.waker().wake();
            first.waker().wake();
            assert!(waits(&mut first));
            assert!(!waits(&mut second));
            second.release();
            assert!(!waits(&mut first));
            first.release();
        }
    }
}
