//! The write load: clients as an application has them, each with a connection that names every member.

use super::{
    books::{Book, Verdict},
    story::Story,
};
use crate::cli::{Failure, milliseconds};
use futures::future::poll_fn;
use std::{
    collections::BTreeSet,
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep, timeout},
};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Statement, config::LoadBalanceHosts};

/// How many clients write.
pub(super) const CLIENTS: usize = 4;
/// Between two rows of a client: gentle enough for a laptop, fine enough to measure an interruption.
const PACE: Duration = Duration::from_millis(4);
/// The same for a load that stays on for hours.
const GENTLE_PACE: Duration = Duration::from_millis(50);
/// Between two attempts to find the primary.
const RECONNECT: Duration = Duration::from_millis(10);
/// A server that does not answer at all is given up after this long.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// A commit may wait for standbys; one that hangs longer is given up as unanswered.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Stops of the load that are worth a line.
const NOTABLE: Duration = Duration::from_millis(200);

/// The clients' tasks end when this is dropped.
pub(super) struct Load {
    shared: Arc<Shared>,
    go: watch::Sender<bool>,
    tasks: tokio::task::JoinSet<()>,
}

struct Shared {
    config: Config,
    pace: Duration,
    books: Vec<Mutex<Book>>,
    permits: Semaphore,
    gaps: Mutex<Gaps>,
}

/// When clients were answered, over all of them.
#[derive(Default)]
struct Gaps {
    last: Option<Instant>,
    longest: Option<Duration>,
    /// An acknowledgement came since the watch began.
    seen: bool,
    /// Notable gaps not yet reported.
    news: Vec<Duration>,
}

/// Nothing panics under these locks; were it so, the numbers would still be right.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(what: &str) -> impl FnOnce(tokio_postgres::Error) -> Failure + '_ {
    move |error| {
        let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
        Failure::Failed(format!("{what}: {error}{cause}"))
    }
}

fn config(dsn: &str) -> Result<Config, Failure> {
    let mut config = Config::from_str(dsn).map_err(failed("the connection string"))?;
    // In random order, so that a frozen server that comes first in the list does not hide the others.
    config
        .connect_timeout(CONNECT_WITHIN)
        .application_name("pgvigil-demo")
        .load_balance_hosts(LoadBalanceHosts::Random);
    Ok(config)
}

impl Load {
    /// Makes the table and begins to write.
    pub(super) async fn start(dsn: &str, gentle: bool) -> Result<Self, Failure> {
        let config = config(dsn)?;
        let session = Session::open(&config).await.map_err(failed("cannot connect to the primary"))?;
        session
            .client
            .batch_execute("CREATE TABLE demo_writes (client int, row bigint, PRIMARY KEY (client, row))")
            .await
            .map_err(failed("cannot create the table"))?;
        let shared = Arc::new(Shared {
            config,
            pace: if gentle { GENTLE_PACE } else { PACE },
            books: (0..CLIENTS).map(|_| Mutex::default()).collect(),
            permits: Semaphore::new(CLIENTS),
            gaps: Mutex::default(),
        });
        let (go, going) = watch::channel(true);
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..CLIENTS {
            tasks.spawn(write(Arc::clone(&shared), number, going.clone()));
        }
        Ok(Self { shared, go, tasks })
    }

    /// Lets it run.
    pub(super) async fn run_for(&self, duration: Duration) {
        sleep(duration).await;
    }

    /// How many commits were acknowledged so far.
    pub(super) fn acknowledged(&self) -> u64 {
        self.shared.books.iter().map(|book| lock(book).acknowledged()).sum()
    }

    /// From now on the longest time without an acknowledgement is measured, beginning with the last one before.
    pub(super) fn watch_for_gap(&self) {
        let mut gaps = lock(&self.shared.gaps);
        gaps.longest = None;
        gaps.seen = false;
    }

    /// The longest time without an acknowledgement; `None` if none came since the watch began.
    pub(super) fn longest_gap(&self) -> Option<Duration> {
        let gaps = lock(&self.shared.gaps);
        gaps.longest.filter(|_| gaps.seen)
    }

    /// Stops writing, waits for rows under way, and looks for every acknowledged row on the primary.
    pub(super) async fn pause_and_verify(&self, dsn: &str) -> Result<Verdict, Failure> {
        self.go.send_replace(false);
        // A client writes with a permit: with all of them in hand, no row is under way. One that hangs is unanswered.
        let all = u32::try_from(CLIENTS).expect("there are few clients");
        let quiet = timeout(ANSWER_WITHIN, self.shared.permits.acquire_many(all)).await;
        let books: Vec<Book> = self.shared.books.iter().map(|book| lock(book).clone()).collect();
        drop(quiet);
        let session = Session::open(&config(dsn)?).await.map_err(failed("cannot connect to read the rows back"))?;
        let read = failed("cannot read the rows back");
        let rows = session.client.query("SELECT client, row FROM demo_writes", &[]).await.map_err(read)?;
        let mut present: Vec<BTreeSet<u64>> = vec![BTreeSet::new(); CLIENTS];
        for row in rows {
            let (client, row): (i32, i64) = (row.get(0), row.get(1));
            if let (Ok(client), Ok(row)) = (usize::try_from(client), u64::try_from(row)) {
                present[client].insert(row);
            }
        }
        let port = session.client.query_one("SELECT inet_server_port()", &[]).await.map_err(failed("the port"))?;
        let port: i32 = port.get(0);
        let mut verdict = Verdict { read_from: format!("the primary, port {port}"), ..Verdict::default() };
        for (book, present) in books.iter().zip(&present) {
            book.check(present, &mut verdict);
        }
        Ok(verdict)
    }

    /// Writes on after a pause.
    pub(super) fn resume(&self) {
        *lock(&self.shared.gaps) = Gaps::default();
        self.go.send_replace(true);
    }

    /// Tells each time writes stop for a notable while; until the clients' tasks end.
    pub(super) async fn report_stops(mut self, story: &Story) {
        let mut every = tokio::time::interval(Duration::from_millis(200));
        loop {
            tokio::select! {
                _ = every.tick() => {}
                _ = self.tasks.join_next() => return,
            }
            let news = std::mem::take(&mut lock(&self.shared.gaps).news);
            for gap in news {
                let ms = u64::try_from(gap.as_millis()).unwrap_or(u64::MAX);
                let acknowledged = self.acknowledged();
                story.say(&format!("writes had stopped for {}; {acknowledged} acknowledged so far", milliseconds(ms)));
            }
        }
    }
}

impl Shared {
    fn acknowledged(&self, number: usize, row: u64) {
        lock(&self.books[number]).acknowledge(row);
        let now = Instant::now();
        let mut gaps = lock(&self.gaps);
        if let Some(last) = gaps.last {
            let gap = now - last;
            gaps.longest = gaps.longest.max(Some(gap));
            if gap >= NOTABLE {
                gaps.news.push(gap);
            }
        }
        gaps.last = Some(now);
        gaps.seen = true;
    }
}

/// One client: connects, writes row after row, and after an error connects again and goes on with the next row.
async fn write(shared: Arc<Shared>, number: usize, mut going: watch::Receiver<bool>) {
    loop {
        let Ok(Ok(session)) = timeout(2 * CONNECT_WITHIN, Session::open(&shared.config)).await else {
            sleep(RECONNECT).await;
            continue;
        };
        let Ok(insert) = session.prepare().await else { continue };
        loop {
            if going.wait_for(|go| *go).await.is_err() {
                return;
            }
            let Ok(writing) = shared.permits.acquire().await else { return };
            let row = lock(&shared.books[number]).begin();
            if !session.insert(&insert, number, row).await {
                break;
            }
            shared.acknowledged(number, row);
            drop(writing);
            sleep(shared.pace).await;
        }
    }
}

/// A connection to the primary.
struct Session {
    client: Client,
    /// A warning came: such as that the wait for standbys was cancelled. What was committed then is not acknowledged.
    warned: Arc<AtomicBool>,
}

impl Session {
    async fn open(config: &Config) -> Result<Self, tokio_postgres::Error> {
        let (client, mut connection) = config.connect(NoTls).await?;
        let warned = Arc::new(AtomicBool::new(false));
        let saw = Arc::clone(&warned);
        tokio::spawn(async move {
            // Messages come before the answer they belong to, so the flag is set in time.
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notice(notice) = message
                    && notice.severity() == "WARNING"
                {
                    saw.store(true, Ordering::SeqCst);
                }
            }
        });
        Ok(Self { client, warned })
    }

    async fn prepare(&self) -> Result<Statement, tokio_postgres::Error> {
        // Severity words must be the English ones, whatever the server's language is.
        self.client.batch_execute("SET lc_messages = 'C'").await?;
        self.client.prepare("INSERT INTO demo_writes VALUES ($1, $2)").await
    }

    /// Whether the row was acknowledged without a warning.
    async fn insert(&self, insert: &Statement, number: usize, row: u64) -> bool {
        let number = i32::try_from(number).expect("there are few clients");
        let row = i64::try_from(row).expect("rows are counted from 0 and time is short");
        let answer = timeout(ANSWER_WITHIN, self.client.execute(insert, &[&number, &row])).await;
        matches!(answer, Ok(Ok(1))) && !self.warned.load(Ordering::SeqCst)
    }
}
