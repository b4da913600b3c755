//! `tidemark spec suggest`: a first draft of a watch spec, from what documents look like.

mod draft;
mod profile;

use std::path::{Path, PathBuf};

use bson::{Document, doc};
use clap::{Args, Subcommand};
use serde_json::json;

use super::exit::{Exit, Failure};
use super::mongo;
use super::out::Format;
use super::session::Session;
use crate::tail::replay::{RawRows, ReplayError};
use draft::{Draft, draft};
use profile::{Profile, Value};

/// What to do with specs.
#[derive(Debug, Subcommand)]
pub enum SpecCommand {
    /// Draft a watch spec from a file or a collection
    #[command(after_help = "Examples:
  tidemark spec suggest --file trips.ndjson.zst > config/trips.toml
  tidemark spec suggest --collection bikes.trips > config/trips.toml
  tidemark config check --spec config/trips.toml

The draft names everything but the target: only you know which field is the right answer. Its comments list candidates.")]
    Suggest(Suggest),
}

/// Flags of `spec suggest`.
#[derive(Debug, Args)]
pub struct Suggest {
    /// A file: NDJSON (also .gz and .zst) or Parquet
    #[arg(long, value_name = "FILE", required_unless_present = "collection", conflicts_with = "collection")]
    file: Option<PathBuf>,
    /// A collection of MongoDB: database.collection
    #[arg(long, value_name = "DB.COLL")]
    collection: Option<String>,
    /// Documents to look at
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    sample: u32,
}

pub(super) fn run(command: SpecCommand, session: &mut Session) -> Result<Exit, Failure> {
    let SpecCommand::Suggest(flags) = command;
    let mut profile = Profile::default();
    let (database, collection) = match (&flags.file, &flags.collection) {
        (Some(file), _) => {
            sample_file(file, flags.sample, &mut profile)?;
            let stem = file.file_name().and_then(|name| name.to_str()).and_then(|name| name.split('.').next()).unwrap_or("tickets");
            ("database".to_owned(), stem.to_owned())
        }
        (None, Some(place)) => {
            let parts = place.split_once('.').filter(|(database, collection)| !database.is_empty() && !collection.is_empty());
            let Some((database, collection)) = parts else {
                return Err(Failure::new(Exit::Usage, format!("--collection takes DATABASE.COLLECTION, not {place:?}")));
            };
            sample_collection(session, database, collection, flags.sample, &mut profile)?;
            (database.to_owned(), collection.to_owned())
        }
        (None, None) => return Err(Failure::new(Exit::Usage, "spec suggest takes --file FILE or --collection DB.COLL")),
    };
    let Draft { toml, notes } = draft(&profile, &database, &collection);
    if session.out.format == Format::Json {
        session.out.json(&json!({ "documents": profile.documents, "spec": toml, "notes": notes }))?;
    } else {
        session.out.raw(toml.as_bytes())?;
    }
    Ok(Exit::Ok)
}

/// Rows that are looked at, at most: the first ones, each as likely to be in the sample.
const ROWS: u64 = 1_000_000;

fn sample_file(file: &Path, sample: u32, profile: &mut Profile) -> Result<(), Failure> {
    let bad = |error: ReplayError| Failure::new(Exit::BadInput, error.to_string());
    let mut kept: Vec<(u64, Result<serde_json::Value, String>)> = Vec::new();
    let mut rows = RawRows::open(file).map_err(bad)?;
    let mut seen = 0_u64;
    // A reservoir (Vitter 1985, algorithm R) over a fixed sequence: the same file gives the same draft.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    while let Some((number, row)) = rows.next().map_err(bad)? {
        seen += 1;
        if kept.len() < sample as usize {
            kept.push((number, row.json()));
        } else {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let place = usize::try_from((random >> 33) % seen).unwrap_or(usize::MAX);
            if let Some(slot) = kept.get_mut(place) {
                *slot = (number, row.json());
            }
        }
        if seen == ROWS {
            break;
        }
    }
    for (number, json) in kept {
        let value = json.map_err(|error| {
            Failure::new(
                Exit::BadInput,
                format!("line {number} of {} is no JSON: {error}; one document a line is expected", file.display()),
            )
        })?;
        match Value::of_json(&value) {
            Value::Document(members) => profile.add(&members),
            _ => return Err(Failure::new(Exit::BadInput, format!("line {number} of {} is no JSON object", file.display()))),
        }
    }
    if profile.documents == 0 {
        return Err(Failure::new(Exit::BadInput, format!("{} has no documents", file.display())));
    }
    Ok(())
}

fn sample_collection(session: &Session, database: &str, collection: &str, sample: u32, profile: &mut Profile) -> Result<(), Failure> {
    let connection = mongo::connect(session.config()?)?;
    let place = format!("{database}.{collection}");
    let documents = connection.client.database(database).collection::<Document>(collection);
    let failure = |error: &::mongodb::error::Error| connection.failure(&format!("sample {place}"), error);
    connection.wait(async {
        let pipeline = [doc! { "$sample": { "size": i64::from(sample) } }];
        let mut cursor = documents.aggregate(pipeline).await.map_err(|error| failure(&error))?;
        while cursor.advance().await.map_err(|error| failure(&error))? {
            let document = cursor.deserialize_current().map_err(|error| failure(&error))?;
            profile.add(&Value::of_document(&document));
        }
        Ok::<(), Failure>(())
    })?;
    if profile.documents == 0 {
        return Err(Failure::new(Exit::BadInput, format!("{place} at {} has no documents", connection.address)));
    }
    Ok(())
}
