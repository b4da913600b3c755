//! The registry in a directory: the contract, and what a crash or a person leaves behind.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;
use tidemark::registry::{LocalRegistry, Registry, RegistryError, Stage};

use crate::registry_contract::{LIMIT, hold};
use crate::support::publications::publication;

fn registry() -> (TempDir, LocalRegistry, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (registry, model) = (LocalRegistry::new(directory.path().join("models")), directory.path().join("models/m"));
    (directory, registry, model)
}

#[test]
fn the_directory_keeps_the_contract() {
    let (_directory, registry, _) = registry();
    let registry: Arc<dyn Registry> = Arc::new(registry);
    hold(&registry);
}

#[test]
fn what_a_dead_writer_left_is_ignored_and_taken_away() {
    let (_directory, registry, model) = registry();
    fs::create_dir_all(model.join(".new/model")).unwrap();
    fs::write(model.join(".new/model/half"), "half").unwrap();
    fs::write(model.join(".new-model.json"), "{\"descr").unwrap();
    assert_eq!(registry.versions("m").unwrap(), []);
    assert_eq!(registry.publish(&publication("m", "k")).unwrap().version, 1);
    let mut names: Vec<_> = fs::read_dir(&model).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, [".lock", "1", "model.json"]);
    assert!(!model.join("1/model/half").exists());
}

#[test]
fn a_writer_that_died_between_its_two_renames_is_found_by_its_key() {
    let (_directory, registry, model) = registry();
    let published = registry.publish(&publication("m", "k")).unwrap();
    fs::remove_file(model.join("model.json")).unwrap();
    assert_eq!(registry.publish(&publication("m", "k")).unwrap(), published);
    assert_eq!(registry.publish(&publication("m", "l")).unwrap().version, 2);
}

#[test]
fn a_number_is_not_given_twice_even_when_its_folder_was_deleted() {
    let (_directory, registry, model) = registry();
    registry.publish(&publication("m", "a")).unwrap();
    registry.publish(&publication("m", "b")).unwrap();
    fs::remove_dir_all(model.join("2")).unwrap();
    assert_eq!(registry.publish(&publication("m", "c")).unwrap().version, 3);
}

#[test]
fn many_writers_of_one_model_get_numbers_of_their_own() {
    let (directory, _registry, _) = registry();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            // A registry of its own: its lock is another one's, as in another process.
            let registry = LocalRegistry::new(directory.path().join("models"));
            std::thread::spawn(move || {
                (0..5).map(|index| registry.publish(&publication("m", &format!("{writer}-{index}"))).unwrap().version).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut numbers: Vec<u64> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=40).collect::<Vec<_>>());
}

#[test]
fn a_file_that_changed_is_not_a_model() {
    let (_directory, registry, model) = registry();
    registry.publish(&publication("m", "k")).unwrap();
    fs::write(model.join("1/model/model.onnx"), "changed").unwrap();
    let error = registry.load("m", 1, &["model/model.onnx"], LIMIT).unwrap_err();
    assert!(matches!(error, RegistryError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("model/model.onnx is not what was published"), "{error}");
}

#[test]
fn a_lost_file_is_put_back_by_the_same_candidate_only() {
    let (_directory, registry, model) = registry();
    registry.publish(&publication("m", "k")).unwrap();
    fs::remove_file(model.join("1/model/model.onnx")).unwrap();
    let error = registry.load("m", 1, &["model/model.onnx"], LIMIT).unwrap_err();
    assert!(matches!(error, RegistryError::Corrupt { .. }), "{error}");
    let mut other = publication("m", "k");
    other.artifacts.insert("model/model.onnx".to_owned(), b"other".to_vec());
    assert!(matches!(registry.publish(&other), Err(RegistryError::Corrupt { .. })));
    assert_eq!(registry.publish(&publication("m", "k")).unwrap().version, 1);
    assert!(registry.load("m", 1, &["model/model.onnx"], LIMIT).is_ok());
}

#[test]
fn a_person_may_move_production_in_the_file() {
    let (_directory, registry, model) = registry();
    registry.publish(&publication("m", "a")).unwrap();
    registry.publish(&publication("m", "b")).unwrap();
    registry.promote("m", 2, "better").unwrap();
    let page = fs::read_to_string(model.join("model.json")).unwrap();
    assert!(page.contains("\"production\": 2,\n  \"reason\": \"better\""), "{page}");
    fs::write(model.join("model.json"), page.replace("\"production\": 2", "\"production\": 1")).unwrap();
    assert_eq!(registry.production("m").unwrap(), Some(1));
    assert_eq!(registry.versions("m").unwrap()[1].stage, Stage::Archived);
    fs::write(model.join("model.json"), "{").unwrap();
    assert!(matches!(registry.production("m"), Err(RegistryError::Corrupt { .. })));
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = LocalRegistry::new(&file).publish(&publication("m", "k")).unwrap_err();
    assert!(matches!(error, RegistryError::Unavailable { .. }) && error.to_string().contains("file/m"), "{error}");
}
