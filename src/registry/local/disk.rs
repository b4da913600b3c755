//! Files that are either as they were or as they should be, whenever the power goes.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

use crate::registry::RegistryError;

/// Says what failed on which path.
pub(super) fn failed(attempted: &str, path: &Path, error: &io::Error) -> RegistryError {
    let reason = format!("{}: {error}", path.display());
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            RegistryError::refused(attempted, format!("{reason}; the registry's directory must be this user's"))
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            RegistryError::unavailable(attempted, format!("{reason}; there is no room: make some"))
        }
        _ => RegistryError::unavailable(attempted, reason),
    }
}

/// Writes a new file, and the folders above it, to the disk.
pub(super) fn write(attempted: &str, path: &Path, bytes: &[u8]) -> Result<(), RegistryError> {
    let written = || -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    written().map_err(|error| failed(attempted, path, &error))
}

/// Gives a file new content: all of it, or none.
pub(super) fn replace(attempted: &str, path: &Path, bytes: &[u8]) -> Result<(), RegistryError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".new-{name}"));
    write(attempted, &new, bytes)?;
    rename(attempted, &new, path)
}

/// Renames durably.
pub(super) fn rename(attempted: &str, from: &Path, to: &Path) -> Result<(), RegistryError> {
    fs::rename(from, to).map_err(|error| failed(attempted, to, &error))?;
    sync_parent(attempted, to)
}

/// Creates a folder and those above it, durably.
pub(super) fn create_folder(attempted: &str, folder: &Path) -> Result<(), RegistryError> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(|error| failed(attempted, folder, &error))?;
    sync_parent(attempted, folder)
}

/// Writes a folder's names, and those of all folders below it, to the disk.
pub(super) fn sync_folders(attempted: &str, folder: &Path) -> Result<(), RegistryError> {
    for name in names(attempted, folder)? {
        let below = folder.join(name);
        if below.is_dir() {
            sync_folders(attempted, &below)?;
        }
    }
    sync(attempted, folder)
}

/// Takes away everything in a folder whose name begins with `prefix`.
pub(super) fn remove_leftovers(attempted: &str, folder: &Path, prefix: &str) -> Result<(), RegistryError> {
    for name in names(attempted, folder)?.into_iter().filter(|name| name.starts_with(prefix)) {
        let path = folder.join(name);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(|error| failed(attempted, &path, &error))?;
    }
    Ok(())
}

/// Returns the names in a folder; none when it is not there. Names that are not Unicode are not ours.
pub(super) fn names(attempted: &str, folder: &Path) -> Result<Vec<String>, RegistryError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(attempted, folder, &error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed(attempted, folder, &error))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

/// Reads a small file; `None` when it is not there.
pub(super) fn read(attempted: &str, path: &Path) -> Result<Option<Vec<u8>>, RegistryError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(attempted, path, &error)),
    }
}

/// Reads a file of at most `limit_bytes`.
pub(super) fn read_up_to(attempted: &str, path: &Path, limit_bytes: u64) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(limit_bytes.saturating_add(1)).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() as u64 > limit_bytes => {
            Err(RegistryError::corrupt(attempted, format!("{} passes the limit; {limit_bytes} bytes were left of it", path.display())))
        }
        Ok(_) => Ok(bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(RegistryError::corrupt(attempted, format!("{} is gone; promote another version", path.display())))
        }
        Err(error) => Err(failed(attempted, path, &error)),
    }
}

fn sync_parent(attempted: &str, path: &Path) -> Result<(), RegistryError> {
    // A relative path of one name has an empty parent, which no system opens.
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => sync(attempted, folder),
        _ => sync(attempted, Path::new(".")),
    }
}

fn sync(attempted: &str, folder: &Path) -> Result<(), RegistryError> {
    File::open(folder).and_then(|opened| opened.sync_all()).map_err(|error| failed(attempted, folder, &error))
}
