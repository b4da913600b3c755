//! `tidemark models`: the versions in the registry, and which of them is in Production.

use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::clock::{now_ms, rfc3339};
use crate::model_event::MovedBy;
use crate::registry::{BEFORE, Registry, Stage, Version, put_into_production};
use crate::topics::Topics;

use super::documents::{Promotion, write_promotion};
use super::exit::{Exit, Failure};
use super::moved::{Move, Moved};
use super::out::{Format, plain};
use super::session::Session;
use super::time;

/// What to do with the versions of a model.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// List the versions of the models
    #[command(after_help = "Examples:
  tidemark models list
  tidemark models list --model ticket-anomaly-detector --output json")]
    List(Which),
    /// Show one version: tags, description, where it comes from
    #[command(after_help = "Example:
  tidemark models show 3")]
    Show(Show),
    /// Put a version into Production
    #[command(after_help = "Example:
  tidemark models promote 3 --reason 'compared by hand'")]
    Promote(Promote),
    /// Put the version into Production that was there before
    #[command(after_help = "Example:
  tidemark models rollback --reason 'answers twice too long since noon'")]
    Rollback(Rollback),
}

/// Which model.
#[derive(Debug, Args)]
pub struct Which {
    /// Name of the model [default: the spec's; `list`: all of them]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
}

/// Flags of `models show`.
#[derive(Debug, Args)]
pub struct Show {
    /// The version
    #[arg(value_name = "VERSION")]
    version: u64,
    #[command(flatten)]
    which: Which,
}

/// Flags of `models promote`.
#[derive(Debug, Args)]
pub struct Promote {
    /// The version
    #[arg(value_name = "VERSION")]
    version: u64,
    /// Why, for those who come later
    #[arg(long, value_name = "TEXT", default_value = "promoted by command")]
    reason: String,
    #[command(flatten)]
    which: Which,
}

/// Flags of `models rollback`.
#[derive(Debug, Args)]
pub struct Rollback {
    /// Why, for those who come later
    #[arg(long, value_name = "TEXT", default_value = "rolled back by command")]
    reason: String,
    #[command(flatten)]
    which: Which,
}

pub(super) fn run(command: ModelsCommand, session: &mut Session) -> Result<Exit, Failure> {
    match command {
        ModelsCommand::List(which) => list(&which, session),
        ModelsCommand::Show(flags) => show(&flags, session),
        ModelsCommand::Promote(flags) => {
            let model = model_of(&flags.which, session)?;
            let registry = registry(session)?;
            change(session, registry.as_ref(), &model, flags.version, MovedBy::Promoted, &flags.reason)
        }
        ModelsCommand::Rollback(flags) => rollback(&flags, session),
    }
}

/// Returns the registry, or says how to name one.
pub(super) fn registry(session: &Session) -> Result<Arc<dyn Registry>, Failure> {
    session.registry()?.ok_or_else(|| {
        let ways = "set MLFLOW_TRACKING_URI (or --mlflow-tracking-uri), or registry.directory for a folder that stands in for MLflow";
        Failure::new(Exit::Usage, format!("no registry of models is configured: {ways}"))
    })
}

/// Returns the version that was in Production before `current`: as its tag says, else the newest archived one below it.
fn before(versions: &[Version], current: u64) -> Option<u64> {
    let is_there = |number: u64| versions.iter().any(|version| version.number == number);
    let named = versions.iter().find(|version| version.number == current).and_then(|version| version.tags.get(BEFORE)?.parse().ok());
    named.filter(|number| is_there(*number)).or_else(|| {
        let archived = versions.iter().filter(|version| version.stage == Stage::Archived && version.number < current);
        archived.map(|version| version.number).max()
    })
}

fn model_of(which: &Which, session: &Session) -> Result<String, Failure> {
    which.model.clone().map_or_else(|| Ok(session.spec()?.model), Ok)
}

fn rollback(flags: &Rollback, session: &mut Session) -> Result<Exit, Failure> {
    let model = model_of(&flags.which, session)?;
    let registry = registry(session)?;
    let versions = registry.versions(&model)?;
    let Some(current) = registry.production(&model)? else {
        let ways = "`tidemark models promote VERSION` puts one there";
        return Err(Failure::new(Exit::BadInput, format!("nothing of {model} is in Production, so there is nothing to roll back: {ways}")));
    };
    let Some(target) = before(&versions, current) else {
        let ways = "`tidemark models list` shows what there is, `tidemark models promote VERSION` takes any of it";
        return Err(Failure::new(Exit::BadInput, format!("no version of {model} was in Production before version {current}: {ways}")));
    };
    change(session, registry.as_ref(), &model, target, MovedBy::RolledBack, &flags.reason)
}

/// Moves Production to a version that must be there.
fn change(
    session: &mut Session,
    registry: &dyn Registry,
    model: &str,
    version: u64,
    action: MovedBy,
    reason: &str,
) -> Result<Exit, Failure> {
    let (config, spec) = (session.config()?.clone(), session.spec()?);
    let versions = registry.versions(model)?;
    if versions.iter().all(|known| known.number != version) {
        return Err(no_version(model, version, &versions));
    }
    let current = registry.production(model)?;
    if action == MovedBy::Promoted {
        put_into_production(registry, model, version, reason)?;
    } else {
        // A rollback leaves the notes as they are, so that the next one goes further back.
        registry.promote(model, version, reason)?;
    }
    let at_ms = now_ms();
    let id = format!("{}-{model}-{version}-{}", action.name(), rfc3339(at_ms));
    let baseline = if config.kafka.bootstrap_servers.is_some() {
        let log = session.log()?;
        let topics = Topics::new(&config.kafka.topic_prefix);
        let moved = Move { id: &id, model, action, version, before: current, reason, at_ms };
        let told = Moved { log: log.as_ref(), topics: &topics, config: &config, spec: &spec }.tell(&moved);
        Some(told.map_err(|failure| {
            let rest = "a running train stage brings its baseline back within 20 s";
            Failure::new(failure.exit(), format!("version {version} of {model} is in Production, but {failure}; {rest}"))
        })?)
    } else {
        None
    };
    let audited = write_promotion(&config, &spec, &Promotion { id: &id, action: action.name(), model, version, before: current, reason })?;
    if session.out.format == Format::Json {
        session.out.json(&json!({
            "model": model, "action": action, "version": version, "previous_version": current, "reason": reason, "audited": audited,
            "told": baseline.is_some(), "baseline": baseline.flatten(),
        }))?;
        return Ok(Exit::Ok);
    }
    let instead = match current {
        Some(current) if current == version => ", as before".to_owned(),
        Some(current) => format!(", in the place of version {current}"),
        None => String::new(),
    };
    session.out.line(format!("Version {version} of {model} is in Production{instead}."))?;
    if *model == spec.model {
        session.out.line(match baseline {
            Some(Some(number)) => format!("Baseline {number} comes into force with it."),
            Some(None) => "No baseline knows that version: `tidemark train` or `tidemark baseline create` makes one.".to_owned(),
            None => {
                "kafka.bootstrap_servers is not set: a running train stage notices within 20 s, and brings its baseline back.".to_owned()
            }
        })?;
    }
    if !audited {
        session.out.line("No document was written to model_audit_log: mongodb.uri is not set.")?;
    }
    Ok(Exit::Ok)
}

fn no_version(model: &str, version: u64, versions: &[Version]) -> Failure {
    let there = versions.iter().map(|known| known.number.to_string()).collect::<Vec<_>>().join(", ");
    let there = if there.is_empty() { "none; `tidemark train` makes one".to_owned() } else { there };
    Failure::new(Exit::BadInput, format!("the registry has no version {version} of {model}; there: {there}"))
}

fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::None => "None",
        Stage::Staging => "Staging",
        Stage::Production => "Production",
        Stage::Archived => "Archived",
    }
}

fn document(model: &str, version: &Version, production: Option<u64>) -> Value {
    json!({
        "model": model, "version": version.number, "in_production": production == Some(version.number), "stage": stage(version.stage),
        "aliases": version.aliases, "created_at": rfc3339(version.created_ms), "run_id": version.run_id,
        "description": version.description, "tags": version.tags,
    })
}

fn list(which: &Which, session: &mut Session) -> Result<Exit, Failure> {
    let spec = session.spec()?;
    let registry = registry(session)?;
    let models = match &which.model {
        Some(model) => vec![model.clone()],
        None => vec![spec.model.clone(), spec.anomaly_model().to_owned()],
    };
    let mut all = Vec::new();
    for model in models {
        let production = registry.production(&model)?;
        all.extend(registry.versions(&model)?.into_iter().map(|version| (model.clone(), version, production)));
    }
    if session.out.format == Format::Json {
        let rows: Vec<Value> = all.iter().map(|(model, version, production)| document(model, version, *production)).collect();
        session.out.json(&rows)?;
        return Ok(Exit::Ok);
    }
    if all.is_empty() {
        session.out.line("There is no version yet. `tidemark train` makes one.")?;
        return Ok(Exit::Ok);
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|(model, version, production)| {
            let place = if *production == Some(version.number) { "Production" } else { stage(version.stage) };
            let made = time::shown(version.created_ms);
            vec![plain(model), version.number.to_string(), place.to_owned(), made, plain(&version.description)]
        })
        .collect();
    session.out.table(&["MODEL", "VERSION", "STAGE", "MADE", "WHAT"], &rows)?;
    Ok(Exit::Ok)
}

fn show(flags: &Show, session: &mut Session) -> Result<Exit, Failure> {
    let model = model_of(&flags.which, session)?;
    let registry = registry(session)?;
    let versions = registry.versions(&model)?;
    let Some(version) = versions.iter().find(|version| version.number == flags.version) else {
        return Err(no_version(&model, flags.version, &versions));
    };
    let production = registry.production(&model)?;
    let out = &mut session.out;
    if out.format == Format::Json {
        out.json(&document(&model, version, production))?;
        return Ok(Exit::Ok);
    }
    let place = if production == Some(version.number) { "Production" } else { stage(version.stage) };
    out.line(format!("{} version {}: {place}", plain(&model), version.number))?;
    out.line(format!(
        "Made       {}, run {}",
        time::shown(version.created_ms),
        version.run_id.as_deref().map_or_else(|| "-".to_owned(), plain)
    ))?;
    out.line(format!("What       {}", plain(&version.description)))?;
    out.line("")?;
    let rows: Vec<Vec<String>> = version.tags.iter().map(|(key, value)| vec![plain(key), plain(value)]).collect();
    out.table(&["TAG", "VALUE"], &rows)?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64, stage: Stage, before: Option<u64>) -> Version {
        Version {
            number,
            stage,
            aliases: vec![],
            tags: before.map(|before| (BEFORE.to_owned(), before.to_string())).into_iter().collect(),
            description: String::new(),
            created_ms: 0,
            run_id: None,
        }
    }

    #[test]
    fn the_version_before_is_the_one_that_is_named_else_the_newest_archived_below() {
        let all = [
            version(1, Stage::Archived, None),
            version(2, Stage::Archived, Some(1)),
            version(3, Stage::None, None),
            version(4, Stage::Production, Some(1)),
            version(5, Stage::Archived, None),
        ];
        assert_eq!(before(&all, 4), Some(1), "2 was promoted too, but 4 took the place of 1");
        assert_eq!(before(&all[1..], 4), Some(2), "1 was deleted");
        assert_eq!(before(&all, 5), Some(2));
        assert_eq!(before(&all, 1), None);
    }
}
