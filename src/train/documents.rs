//! Documents of what was decided, upserted by id: the neighbours' collections.

use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use mongodb::options::{Acknowledgment, ClientOptions, WriteConcern};
use secrecy::ExposeSecret;

use crate::history::said;
use crate::stage::Context;

/// How long a server is looked for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Writes a document by its `_id`, where a MongoDB is configured. A failure is told and costs the document alone.
pub(super) fn write(context: &Context, collection: &str, document: &Document) {
    let config = &context.config;
    let Some(uri) = &config.mongodb.uri else { return };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::warn!(collection, %error, "no runtime to write a document with");
            return;
        }
    };
    let database = config.mongodb.database.as_deref().unwrap_or(&context.spec.source.database);
    let written = runtime.block_on(async {
        let mut options = ClientOptions::parse(uri.expose_secret()).await?;
        options.app_name.get_or_insert_with(|| "tidemark".to_owned());
        options.server_selection_timeout = Some(PATIENCE);
        options.connect_timeout = Some(PATIENCE);
        options.write_concern = Some(WriteConcern::builder().w(Acknowledgment::Majority).w_timeout(PATIENCE).build());
        let client = Client::with_options(options)?;
        let id = document.get("_id").cloned().unwrap_or(bson::Bson::Null);
        let collection = client.database(database).collection::<Document>(collection);
        collection.replace_one(doc! { "_id": id }, document).upsert(true).await.map(|_| ())
    });
    if let Err(error) = written {
        tracing::warn!(collection, error = said(&error), "a document of a decision was not written; the decision stands in the log");
    }
}
