//! The change stream of one collection, and, once, its history.
//!
//! The driver's futures cannot be cancelled, so one task owns the cursor and does nothing but read replies, whole and raw. A
//! thread beside it looks up what updates left out and decodes. Both channels are bounded: a slow log slows the cursor.
//! Whatever fails is said once; the tail then opens the source again, from its position, with a new client.

mod cursor;
mod decode;
mod history;
mod oplog;
mod oversize;
mod pipeline;
mod words;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, Document, RawDocument, RawDocumentBuf, Timestamp, doc};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use mongodb::Client;
use mongodb::options::ClientOptions;
use mongodb::raw_batch_cursor::RawBatch;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use self::cursor::{From, Patience, STALLED, Stream, Unread, View, within};
use self::decode::{Decoder, NotAReply, Skip, Versions};
pub use self::words::said;
use super::normalise::{Normaliser, Unreadable};
use super::position::hex;
use super::source::{ClusterTime, Event, HistoryPlace, Opened, Place, Resume, Source, SourceError, count_unreadable};
use crate::config::{Config, Start};
use crate::spec::Spec;

/// Replies that wait to be decoded, and lists of events that wait to be taken.
const WAITING: usize = 2;
/// A chunk of a history may be scattered over a large collection.
const SCATTERED: u32 = 10;
/// How long a call may look for a server.
const SELECTION: Duration = Duration::from_secs(5);
/// How long the server may wait for events while a history is read: each chunk waits for the stream to pass it.
const HISTORY_AWAIT: Duration = Duration::from_millis(50);
/// The same otherwise, which is what the server does by itself.
const AWAIT: Duration = Duration::from_secs(1);
/// A member that has just been elected may be behind for a moment; a position this much later than the server's time is of another.
const AHEAD_SECONDS: u32 = 60;

/// Returns the stages after `$changeStream`, which the server runs: what may have completed, and nothing but the spec's fields.
#[must_use]
pub fn stages(spec: &Spec) -> Vec<Document> {
    pipeline::stages(spec, &Normaliser::new(spec).paths())
}

/// Returns the predicate by which the server leaves out what is not completed, where it can be spelt.
pub(crate) fn completed_filter(spec: &Spec) -> Document {
    pipeline::completed_filter(spec)
}

/// The source.
pub struct MongoSource {
    uri: SecretString,
    database: String,
    start: Start,
    batch_rows: u32,
    spec: Arc<Spec>,
    normaliser: Normaliser,
    runtime: Arc<Runtime>,
    reading: Option<Receiver<Result<Vec<Event>, SourceError>>>,
    rest: VecDeque<Event>,
    history_rows: Option<u64>,
    patience: Arc<Patience>,
    watches_oplog: bool,
    watcher: Option<oplog::Watcher>,
}

/// What the server says about itself and the collection.
struct Facts {
    set: String,
    operation_time: ClusterTime,
    uuid: String,
    has_images: bool,
}

impl MongoSource {
    /// Prepares to read the spec's collection.
    ///
    /// # Errors
    /// [`SourceError::Refused`] when no connection string is configured, or no thread can be had.
    pub fn new(config: &Config, spec: &Arc<Spec>) -> Result<Self, SourceError> {
        let refused = |reason: String| SourceError::Refused { doing: "preparing to read MongoDB".to_owned(), reason };
        let uri = config.mongodb.uri.clone().ok_or_else(|| refused("no mongodb.uri (MONGODB_URI) is configured".to_owned()))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("tail-mongo")
            .enable_all()
            .build()
            .map_err(|error| refused(error.to_string()))?;
        Ok(Self {
            uri,
            database: config.mongodb.database.clone().unwrap_or_else(|| spec.source.database.clone()),
            start: config.tail.start,
            batch_rows: config.tail.batch_rows,
            spec: spec.clone(),
            normaliser: Normaliser::new(spec),
            runtime: Arc::new(runtime),
            reading: None,
            rest: VecDeque::new(),
            history_rows: None,
            patience: Arc::default(),
            watches_oplog: false,
            watcher: None,
        })
    }

    /// Warns, while it is open, when half of the oplog has passed what was read.
    #[must_use]
    pub fn watching_oplog(mut self) -> Self {
        self.watches_oplog = true;
        self
    }

    /// Where the stream has been read to, for the one who watches the oplog.
    fn has_read(&mut self, place: &Place) {
        let Some((seconds, _)) = place.time().filter(|_| self.watches_oplog) else { return };
        if let Some(watcher) = &self.watcher {
            watcher.has_read(seconds);
            return;
        }
        match oplog::Watcher::start(self.runtime.clone(), self.uri.clone(), seconds) {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => tracing::warn!(%error, "the oplog is not watched: no thread can be had"),
        }
    }

    fn stages(&self) -> Vec<Document> {
        pipeline::stages(&self.spec, &self.normaliser.paths())
    }

    /// Returns what is read: set and collection by name, then a hash of all that the meaning of a token depends on.
    fn fingerprint(&self, facts: &Facts) -> String {
        let stages = self.stages();
        let whole = format!("{} {} {} {} {stages:?}", facts.set, self.database, facts.uuid, self.spec.fingerprint());
        let hash = hex(&Sha256::digest(whole)[..8]);
        format!("{} {}.{} {hash}", facts.set, self.database, self.spec.source.collection)
    }

    async fn connect(uri: &SecretString) -> mongodb::error::Result<Client> {
        let mut options = ClientOptions::parse(uri.expose_secret()).await?;
        options.app_name = options.app_name.or_else(|| Some("tidemark".to_owned()));
        options.server_selection_timeout = options.server_selection_timeout.or(Some(SELECTION));
        options.connect_timeout = options.connect_timeout.or(Some(SELECTION));
        Client::with_options(options)
    }

    async fn facts(client: &Client, database: &str, collection: &str) -> mongodb::error::Result<Facts> {
        let hello = client.database("admin").run_command(doc! { "hello": 1 }).await?;
        let list = doc! { "listCollections": 1, "filter": { "name": collection } };
        let list = client.database(database).run_command(list).await?;
        let entry = list.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch")).ok();
        let entry = entry.and_then(|batch| batch.first()).and_then(Bson::as_document);
        let uuid = entry.and_then(|entry| entry.get_document("info").ok()).and_then(|info| info.get("uuid"));
        let images = entry
            .and_then(|entry| entry.get_document("options").ok())
            .and_then(|options| options.get_document("changeStreamPreAndPostImages").ok())
            .is_some_and(|images| images.get_bool("enabled").unwrap_or(false));
        let time = hello.get_timestamp("operationTime").unwrap_or(Timestamp { time: 0, increment: 0 });
        Ok(Facts {
            set: hello.get_str("setName").unwrap_or("sharded").to_owned(),
            operation_time: (time.time, time.increment),
            uuid: uuid.map(ToString::to_string).unwrap_or_default(),
            has_images: images,
        })
    }
}

impl Source for MongoSource {
    fn is_replay(&self) -> bool {
        false
    }

    fn open(&mut self, from: Option<&Resume>) -> Result<Opened, SourceError> {
        self.reading = None;
        self.rest.clear();
        let namespace = format!("{}.{}", self.database, self.spec.source.collection);
        let doing = format!("opening the change stream of {namespace}");
        let runtime = self.runtime.clone();
        let (client, facts) = within(&runtime, STALLED, &doing, async {
            let client = Self::connect(&self.uri).await?;
            let facts = Self::facts(&client, &self.database, &self.spec.source.collection).await?;
            Ok((client, facts))
        })?;
        if facts.operation_time == (0, 0) {
            let reason = "the server is neither of a replica set nor of a sharded cluster, and has no change streams".to_owned();
            return Err(SourceError::Refused { doing, reason });
        }
        if !facts.has_images {
            tracing::warn!(
                "{namespace} keeps no pre- and post-images: a replaced document counts as completed (transition `assumed`), and an \
                 update is read as it is by then. collMod with changeStreamPreAndPostImages: {{enabled: true}} changes that"
            );
        }
        let fingerprint = self.fingerprint(&facts);
        let begun = begin(from, &facts, fingerprint, self.start);
        let (opened, skip) = begun.map_err(|reason| SourceError::Refused { doing: doing.clone(), reason })?;
        let decoder = Decoder::new(self.normaliser.clone(), is_id(&self.spec), &opened.place, skip.clone());
        let mut stream = Stream {
            collection: client.database(&self.database).collection(&self.spec.source.collection),
            stages: self.stages(),
            sizes: pipeline::sizes(&self.spec),
            has_images: facts.has_images,
            batch_rows: self.batch_rows,
            wait: if opened.history.is_some() { HISTORY_AWAIT } else { AWAIT },
            runtime: runtime.clone(),
            patience: Arc::clone(&self.patience),
            answers: 0,
            doing,
            replies: None,
            refused: None,
        };
        let from = match &opened.place {
            Place::Stream { token, .. } if !token.is_empty() && skip == Skip::Nothing => From::Token(token.clone()),
            Place::Stream { time, .. } => From::Time(*time),
            Place::Rows(_) => From::Time(facts.operation_time),
        };
        stream.open(&from, View::Whole).map_err(|error| match error {
            SourceError::Forgotten { doing, reason, .. } => SourceError::Forgotten { doing, reason, present: facts.operation_time },
            other => other,
        })?;
        self.history_rows = None;
        if opened.history.is_some() {
            let rows = history::rows(&client, &stream.collection, pipeline::completed_filter(&self.spec));
            match within(&runtime, STALLED, "estimating how large the history is", rows) {
                Ok(rows) => self.history_rows = Some(rows),
                Err(error) => tracing::warn!(%error, "how much of the history is left cannot be told"),
            }
        }
        let (sender, receiver) = crossbeam_channel::bounded(WAITING);
        let reader = Reader { stream, client, decoder, spec: self.spec.clone(), opened_from: from, out: sender };
        let history = opened.history.clone();
        std::thread::Builder::new()
            .name("tail-decode".to_owned())
            .spawn(move || reader.run(history))
            .map_err(|error| SourceError::Unavailable { doing: "starting the decoding thread".to_owned(), reason: error.to_string() })?;
        self.reading = Some(receiver);
        self.has_read(&opened.place);
        Ok(opened)
    }

    fn read(&mut self, most: usize, timeout: Duration, into: &mut Vec<Event>) -> Result<(), SourceError> {
        let wanted = into.len() + most;
        while into.len() < wanted {
            let missing = wanted - into.len();
            if self.rest.is_empty() {
                let Some(receiver) = &self.reading else {
                    let doing = "reading the change stream".to_owned();
                    return Err(SourceError::Unavailable { doing, reason: "it is not open".to_owned() });
                };
                let wait = if into.is_empty() { timeout } else { Duration::ZERO };
                match receiver.recv_timeout(wait) {
                    Ok(Ok(events)) => self.rest = events.into(),
                    Ok(Err(error)) => {
                        self.reading = None;
                        if into.is_empty() {
                            return Err(error);
                        }
                        // What came before it is good; the next call says that the stream is not open.
                        tracing::warn!("{error}");
                        return Ok(());
                    }
                    Err(RecvTimeoutError::Timeout) => return Ok(()),
                    Err(RecvTimeoutError::Disconnected) => {
                        self.reading = None;
                        continue;
                    }
                }
            }
            into.extend(self.rest.drain(..missing.min(self.rest.len())));
            if let Some(Event::Ticket { after, .. } | Event::Idle { after }) = into.last() {
                self.has_read(after);
            }
        }
        Ok(())
    }

    fn history_rows(&self) -> Option<u64> {
        self.history_rows
    }

    fn close(&mut self) {
        self.reading = None;
        self.rest.clear();
        self.watcher = None;
    }
}

/// Replies of a change stream, from wherever they are.
pub struct Replies(Decoder);

impl Replies {
    /// Reads from `place` on.
    #[must_use]
    pub fn new(spec: &Spec, place: &Place) -> Self {
        Self(Decoder::new(Normaliser::new(spec), is_id(spec), place, Skip::Nothing))
    }

    /// Reads a reply as the server sent it. An update whose values are not in it counts as gone.
    ///
    /// # Errors
    /// Why it is none.
    pub fn read(&mut self, reply: &RawDocument) -> Result<Vec<Event>, String> {
        let events = decode::events_of(reply).map_err(|error| error.to_string())?;
        self.0.reply(reply, &events, &Versions::new()).map_err(|error| error.to_string())
    }
}

/// Whether the ticket's id is the document's `_id`.
fn is_id(spec: &Spec) -> bool {
    spec.ticket.id.names() == ["_id"]
}

/// Returns set and collection in a fingerprint; `None` in one of a time when it had the hash only.
fn named(fingerprint: &str) -> Option<&str> {
    fingerprint.rsplit_once(' ').map(|(name, _)| name)
}

/// Decides where to begin, and what to pass over.
///
/// # Errors
/// Why the position is not one of this collection, and what to do.
fn begin(from: Option<&Resume>, facts: &Facts, fingerprint: String, start: Start) -> Result<(Opened, Skip), String> {
    if let Some(from) = from {
        let (theirs, ours) = (named(&from.fingerprint), named(&fingerprint));
        if theirs.is_some() && theirs != ours {
            return Err(format!(
                "the position is one in {}, and this is {}: give it another kafka.topic_prefix, or go back to the one that was read before",
                theirs.unwrap_or_default(),
                ours.unwrap_or_default()
            ));
        }
        let ahead = from.place.time().filter(|time| time.0 > facts.operation_time.0.saturating_add(AHEAD_SECONDS));
        if let Some((seconds, _)) = ahead {
            return Err(format!(
                "the position's time, {seconds} s since 1970, is later than the server's time, {} s: this is another cluster, or an older \
                 state of it; give it another kafka.topic_prefix",
                facts.operation_time.0
            ));
        }
    }
    Ok(begin_there(from, facts, fingerprint, start))
}

fn begin_there(from: Option<&Resume>, facts: &Facts, fingerprint: String, start: Start) -> (Opened, Skip) {
    let Some(from) = from else {
        // All that committed at or before the operation time is history.
        let place = Place::Stream { token: bytes::Bytes::new(), time: facts.operation_time, index: u32::MAX };
        let history =
            (start == Start::History).then_some(HistoryPlace { since: facts.operation_time, last: None, rows: 0, completed_from_ms: None });
        return (Opened { place, fingerprint, history }, Skip::Events(facts.operation_time, u32::MAX));
    };
    let skip = match &from.place {
        Place::Rows(_) => Skip::Nothing,
        Place::Stream { token, time, index } if token.is_empty() => Skip::Events(*time, *index),
        Place::Stream { .. } if from.fingerprint == fingerprint => Skip::Nothing,
        Place::Stream { token, time, index } => {
            let data = RawDocument::from_bytes(token).ok().and_then(|token| token.get_str("_data").ok());
            data.map_or(Skip::Events(*time, *index), |data| Skip::Through(data.to_owned()))
        }
    };
    (Opened { place: from.place.clone(), fingerprint, history: from.history.clone() }, skip)
}

/// The thread that decodes.
struct Reader {
    stream: Stream,
    client: Client,
    decoder: Decoder,
    spec: Arc<Spec>,
    /// Where the cursor began, while nothing has come of it.
    opened_from: From,
    out: Sender<Result<Vec<Event>, SourceError>>,
}

/// Why the thread ends.
enum Ended {
    /// Nobody listens any more.
    Unheard,
    /// It failed.
    Failed(SourceError),
}

impl std::convert::From<SourceError> for Ended {
    fn from(error: SourceError) -> Self {
        Self::Failed(error)
    }
}

impl Reader {
    fn run(mut self, history: Option<HistoryPlace>) {
        let ended = match history.map_or(Ok(()), |history| self.history(history)) {
            Ok(()) => loop {
                if let Err(ended) = self.forward() {
                    break ended;
                }
            },
            Err(ended) => ended,
        };
        if let Ended::Failed(error) = ended {
            // An error here means that nobody listens, and then nobody has to know.
            let _unheard = self.out.send(Err(error));
        }
    }

    fn send(&self, events: Vec<Event>) -> Result<(), Ended> {
        if events.is_empty() { Ok(()) } else { self.out.send(Ok(events)).map_err(|_| Ended::Unheard) }
    }

    fn count(&self, unreadable: &Unreadable) {
        count_unreadable(&self.spec, unreadable);
    }

    /// Takes one reply through: looks up, decodes, sends.
    fn forward(&mut self) -> Result<(), Ended> {
        match self.stream.next() {
            Ok(reply) => self.take(&reply),
            Err(Unread::TooLarge(refusal)) => self.pass_too_large(refusal),
            Err(Unread::Failed(error)) => Err(error.into()),
        }
    }

    fn take(&mut self, reply: &RawBatch) -> Result<(), Ended> {
        let events = self.decode(reply)?;
        self.send(events)?;
        self.count(&self.decoder.unreadable);
        self.decoder.unreadable.clear();
        if let Some(token) = self.decoder.invalidated.take() {
            tracing::warn!("the collection was dropped or renamed; what takes its place is followed");
            self.open(From::Token(token), View::Whole)?;
        }
        Ok(())
    }

    fn open(&mut self, from: From, view: View) -> Result<(), SourceError> {
        self.stream.open(&from, view)?;
        self.opened_from = from;
        Ok(())
    }

    /// Opens the cursor again behind the last event that was taken.
    fn open_here(&mut self, view: View) -> Result<(), SourceError> {
        let Some(token) = self.decoder.taken() else {
            self.decoder.begin_again();
            return self.open(self.opened_from.clone(), view);
        };
        self.open(From::Token(token), view)
    }

    fn decode(&mut self, reply: &RawBatch) -> Result<Vec<Event>, SourceError> {
        let strange = |reason: String| SourceError::Refused { doing: "reading the change stream".to_owned(), reason };
        let not_a_reply = |error: NotAReply| strange(error.to_string());
        let reply = reply.as_raw_document();
        let documents = decode::events_of(reply).map_err(not_a_reply)?;
        let ids = decode::to_look_up(&documents).map_err(not_a_reply)?;
        let (versions, unreadable) = if ids.is_empty() {
            Default::default()
        } else {
            let latest = documents.iter().filter_map(|event| event.get_timestamp("clusterTime").ok()).max();
            self.look_up(ids, latest)?
        };
        self.count(&unreadable);
        self.decoder.reply(reply, &documents, &versions).map_err(not_a_reply)
    }

    /// Reads the versions of documents that updates completed: by majority, not before `latest`, from the primary.
    fn look_up(&self, ids: Vec<RawDocumentBuf>, latest: Option<Timestamp>) -> Result<(Versions, Unreadable), SourceError> {
        let ids: Vec<Bson> = ids.into_iter().filter_map(|id| Document::try_from(id.as_ref()).ok()?.remove("_id")).collect();
        let query = history::Query {
            filter: doc! { "_id": { "$in": ids } },
            projection: pipeline::find_projection(&self.decoder.normaliser().paths()),
            not_before: latest,
            from: None,
            limit: None,
        };
        let mut unreadable = Unreadable::default();
        let mut versions = Versions::new();
        let mut take = |document: &RawDocument| {
            if let Ok(Some(id)) = document.get("_id") {
                let normalised = self.decoder.normaliser().completed_from_bson(document, &mut unreadable);
                versions.insert(decode::id_document(id).into_bytes(), normalised);
            }
        };
        self.stream.block_on(history::find(&self.client, &self.stream.collection, query, &mut take))?;
        Ok((versions, unreadable))
    }
}
