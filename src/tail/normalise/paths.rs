//! The spec's paths as a tree of names, so that one pass over a document finds all of them.

use crate::spec::{Path, Spec};

/// A place in the tree. Every place has a slot of its own, so that a name that is there twice is noticed.
#[derive(Clone, Debug)]
struct Place {
    name: Box<str>,
    below: Vec<usize>,
}

/// All paths that are read.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    places: Vec<Place>,
    distinct: Vec<(Path, usize)>,
}

/// The place above all names: the document.
pub(super) const ROOT: usize = 0;

impl Paths {
    pub(super) fn new() -> Self {
        Self { places: vec![Place { name: "".into(), below: Vec::new() }], distinct: Vec::new() }
    }

    /// Adds a path and returns its place; the same path has the same place.
    pub(super) fn add(&mut self, path: &Path) -> usize {
        let mut at = ROOT;
        for name in path.names() {
            let known = self.places[at].below.iter().copied().find(|&place| *self.places[place].name == **name);
            at = known.unwrap_or_else(|| {
                let new = self.places.len();
                self.places.push(Place { name: name.as_str().into(), below: Vec::new() });
                self.places[at].below.push(new);
                new
            });
        }
        if self.distinct.iter().all(|&(_, place)| place != at) {
            self.distinct.push((path.clone(), at));
        }
        at
    }

    /// Returns the number of slots that one pass fills.
    pub(super) fn slots(&self) -> usize {
        self.places.len()
    }

    /// Returns whether paths go on below `place`.
    pub(super) fn goes_on(&self, place: usize) -> bool {
        !self.places[place].below.is_empty()
    }

    /// Returns the place of `name` below `place`. `next` is where to look first: documents keep their order.
    pub(super) fn below(&self, place: usize, name: &str, next: &mut usize) -> Option<usize> {
        let below = &self.places[place].below;
        let start = (*next).min(below.len());
        let found = (start..below.len()).chain(0..start).find(|&i| *self.places[below[i]].name == *name)?;
        *next = found + 1;
        Some(below[found])
    }

    /// Returns each path once, with its place, in the order of adding.
    pub(super) fn distinct(&self) -> impl Iterator<Item = (&Path, usize)> {
        self.distinct.iter().map(|(path, place)| (path, *place))
    }

    /// Returns the paths that are not below another: an inclusive projection takes no path together with one below it.
    pub(super) fn outermost(&self) -> Vec<&Path> {
        let covers = |short: &Path, long: &Path| short != long && long.names().starts_with(short.names());
        self.distinct.iter().map(|(path, _)| path).filter(|path| !self.distinct.iter().any(|(other, _)| covers(other, path))).collect()
    }
}

/// Where everything that the rules need is found.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) id: usize,
    pub(super) status: usize,
    pub(super) completed_at: usize,
    pub(super) target: Vec<usize>,
    pub(super) between: Option<(usize, usize)>,
    pub(super) prediction: Vec<usize>,
    pub(super) model_version: Option<usize>,
    pub(super) fields: Vec<Vec<usize>>,
}

impl Places {
    pub(super) fn of(spec: &Spec, paths: &mut Paths) -> Self {
        let all = |list: &[Path], paths: &mut Paths| list.iter().map(|path| paths.add(path)).collect::<Vec<_>>();
        Self {
            id: paths.add(&spec.ticket.id),
            status: paths.add(&spec.ticket.status),
            completed_at: paths.add(&spec.ticket.completed_at),
            target: all(&spec.target.paths, paths),
            between: spec.target.between.as_ref().map(|between| (paths.add(&between.from), paths.add(&between.to))),
            prediction: all(&spec.prediction.paths, paths),
            model_version: spec.prediction.model_version.as_ref().map(|path| paths.add(path)),
            fields: spec.fields.iter().map(|field| all(&field.paths, paths)).collect(),
        }
    }
}

/// Room for the slots of one document: on the stack for most specs, because this is the path of every ticket.
pub(super) struct Room<T> {
    few: [Option<T>; FEW],
    many: Vec<Option<T>>,
}

const FEW: usize = 40;

impl<T: Copy> Room<T> {
    pub(super) fn new() -> Self {
        Self { few: [None; FEW], many: Vec::new() }
    }

    /// Returns an empty slot for every place.
    pub(super) fn slots(&mut self, paths: &Paths) -> &mut [Option<T>] {
        let slots = paths.slots();
        if slots <= FEW {
            return &mut self.few[..slots];
        }
        self.many.resize(slots, None);
        &mut self.many
    }
}
