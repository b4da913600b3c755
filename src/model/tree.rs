//! A binary tree over f32 features, kept as one flat array that every walk stays inside.

use rayon::prelude::*;

/// Levels below the root that a tree may have.
pub const MAX_DEPTH: u32 = 64;
/// Nodes that a tree may have: more than any tree of depth 16, and few enough to be held in memory many times over.
pub const MAX_NODES: usize = 1 << 17;

/// Rows that walk a tree together: their loads overlap, where one row alone would wait for each node in turn.
const LANES: usize = 8;
/// Rows that one task scores: a few milliseconds of work, and the rows stay in the cache while the trees pass by.
const BLOCK_ROWS: usize = 512;

/// A node of a tree. The root is node 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Node {
    /// A question: a row goes left when `x[feature] <= threshold`, else right. So a NaN goes right.
    Split {
        /// The feature's position in a row.
        feature: u16,
        /// Compared with the feature; finite.
        threshold: f32,
        /// Node of the rows at or below the threshold.
        left: u32,
        /// Node of the rows above.
        right: u32,
    },
    /// An answer.
    Leaf {
        /// The tree's value for the rows that end here; finite.
        value: f32,
    },
}

/// Nodes that do not make a tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// No node, or too many.
    #[error("a tree of {nodes} nodes: it must have between 1 and {MAX_NODES}")]
    Size {
        /// Nodes given.
        nodes: usize,
    },
    /// A question about a feature that no row has.
    #[error("node {node} splits on feature {feature}, but a row has {features}")]
    Feature {
        /// The node.
        node: usize,
        /// The feature it names.
        feature: u16,
        /// Features of a row.
        features: usize,
    },
    /// A threshold or a value that is infinite or not a number.
    #[error("node {node} holds a number that is not finite")]
    NotFinite {
        /// The node.
        node: usize,
    },
    /// A child that is not there.
    #[error("node {node} has child {child}, but the tree has {nodes} nodes")]
    Child {
        /// The node.
        node: usize,
        /// The child it names.
        child: u32,
        /// Nodes of the tree.
        nodes: usize,
    },
    /// Two ways to one node: a cycle, or branches that grow together.
    #[error("node {node} is reached twice: a node has one parent and the root has none")]
    Shared {
        /// The node.
        node: u32,
    },
    /// A node that no row can come to.
    #[error("{nodes} nodes of the tree cannot be reached from its root")]
    Unreachable {
        /// How many.
        nodes: usize,
    },
    /// Too many levels.
    #[error("the tree is deeper than {MAX_DEPTH} levels")]
    Depth,
}

/// Sixteen bytes, four to a cache line. A leaf is its own child on both sides and holds its value as the threshold, so a
/// walk takes as many steps as the tree is deep and asks at none of them whether it has arrived.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Packed {
    threshold: f32,
    left: u32,
    right: u32,
    feature: u32,
}

/// A tree whose every walk ends: its children are in range, and each node has one parent.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    nodes: Vec<Packed>,
    depth: u32,
}

impl Tree {
    /// Returns the tree of `nodes`, for rows of `features` features.
    ///
    /// # Errors
    /// [`TreeError`], naming the node that breaks a promise of [`Node`] or of [`Tree`].
    pub fn new(nodes: &[Node], features: usize) -> Result<Self, TreeError> {
        if nodes.is_empty() || nodes.len() > MAX_NODES {
            return Err(TreeError::Size { nodes: nodes.len() });
        }
        let mut packed = Vec::with_capacity(nodes.len());
        for (at, node) in (0_u32..).zip(nodes) {
            packed.push(match *node {
                Node::Leaf { value } => Packed { threshold: value, left: at, right: at, feature: 0 },
                Node::Split { feature, threshold, left, right } => {
                    check_split(at as usize, nodes.len(), feature, [left, right], features)?;
                    Packed { threshold, left, right, feature: u32::from(feature) }
                }
            });
            if !packed[at as usize].threshold.is_finite() {
                return Err(TreeError::NotFinite { node: at as usize });
            }
        }
        let depth = depth(nodes)?;
        Ok(Self { nodes: packed, depth })
    }

    /// Returns how many levels the tree has below its root.
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// Returns the nodes, the root first.
    #[must_use]
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = Node> {
        self.nodes.iter().enumerate().map(|(at, node)| {
            if node.left as usize == at {
                return Node::Leaf { value: node.threshold };
            }
            let feature = u16::try_from(node.feature).expect("a feature came in as a u16");
            Node::Split { feature, threshold: node.threshold, left: node.left, right: node.right }
        })
    }

    /// Returns the value of the leaf where `row` ends.
    fn value(&self, row: &[f32]) -> f32 {
        let mut node = self.nodes[0];
        for _ in 0..self.depth {
            let next = if row[node.feature as usize] <= node.threshold { node.left } else { node.right };
            node = self.nodes[next as usize];
        }
        node.threshold
    }

    /// Adds to each of `sums` the value of its row of `groups`, as [`grouped`] lays them out.
    fn add_values(&self, groups: &[[f32; LANES]], width: usize, sums: &mut [f64]) {
        let nodes = self.nodes.as_slice();
        for (group, sums) in groups.chunks_exact(width).zip(sums.chunks_mut(LANES)) {
            let mut at = [0_u32; LANES];
            for _ in 0..self.depth {
                for (lane, at) in at.iter_mut().enumerate() {
                    let node = nodes[*at as usize];
                    *at = if group[node.feature as usize][lane] <= node.threshold { node.left } else { node.right };
                }
            }
            for (at, sum) in at.iter().zip(sums) {
                *sum += f64::from(nodes[*at as usize].threshold);
            }
        }
    }
}

/// Lays out `rows`, row-major and `width` wide, in groups of [`LANES`] rows, each group feature by feature: `[groups, width, LANES]`.
/// The last group is filled up with zeros.
fn grouped(rows: &[f32], width: usize) -> Vec<[f32; LANES]> {
    let mut groups = vec![[0.0; LANES]; (rows.len() / width).div_ceil(LANES) * width];
    for (rows, group) in rows.chunks(width * LANES).zip(groups.chunks_exact_mut(width)) {
        for (lane, row) in rows.chunks_exact(width).enumerate() {
            group.iter_mut().zip(row).for_each(|(values, value)| values[lane] = *value);
        }
    }
    groups
}

/// Returns the mean of the trees' values for `row`, summed in the order of the trees.
pub(crate) fn mean_of_row(trees: &[Tree], row: &[f32]) -> f64 {
    let mut sum = 0.0;
    for tree in trees {
        sum += f64::from(tree.value(row));
    }
    sum / trees.len() as f64
}

/// Writes into each of `means` what [`mean_of_row`] returns for its row of `rows`, row-major and `width` wide.
///
/// The rows are shared out to the threads of the current rayon pool; no result depends on how.
pub(crate) fn means_of_rows(trees: &[Tree], rows: &[f32], width: usize, means: &mut [f64]) {
    assert_eq!(rows.len(), width * means.len(), "a mean for every row");
    let count = trees.len() as f64;
    means.par_chunks_mut(BLOCK_ROWS).zip(rows.par_chunks(BLOCK_ROWS * width)).for_each(|(means, rows)| {
        let groups = grouped(rows, width);
        means.fill(0.0);
        for tree in trees {
            tree.add_values(&groups, width, means);
        }
        for mean in means {
            *mean /= count;
        }
    });
}

fn check_split(node: usize, nodes: usize, feature: u16, children: [u32; 2], features: usize) -> Result<(), TreeError> {
    if usize::from(feature) >= features {
        return Err(TreeError::Feature { node, feature, features });
    }
    match children.into_iter().find(|child| *child as usize >= nodes) {
        Some(child) => Err(TreeError::Child { node, child, nodes }),
        None => Ok(()),
    }
}

/// Walks every branch once, from the root: the only walk that does not trust the tree.
fn depth(nodes: &[Node]) -> Result<u32, TreeError> {
    let mut reached = vec![false; nodes.len()];
    reached[0] = true;
    let (mut deepest, mut count) = (0, 1);
    let mut open = vec![(0_u32, 0_u32)];
    while let Some((node, depth)) = open.pop() {
        deepest = deepest.max(depth);
        let Node::Split { left, right, .. } = nodes[node as usize] else { continue };
        if depth == MAX_DEPTH {
            return Err(TreeError::Depth);
        }
        for child in [left, right] {
            if std::mem::replace(&mut reached[child as usize], true) {
                return Err(TreeError::Shared { node: child });
            }
            count += 1;
            open.push((child, depth + 1));
        }
    }
    if count < nodes.len() {
        return Err(TreeError::Unreachable { nodes: nodes.len() - count });
    }
    Ok(deepest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAF: Node = Node::Leaf { value: 1.0 };

    fn split(feature: u16, threshold: f32, left: u32, right: u32) -> Node {
        Node::Split { feature, threshold, left, right }
    }

    #[test]
    fn a_row_at_the_threshold_goes_left_and_a_nan_goes_right() {
        let tree = Tree::new(&[split(0, 2.0, 1, 2), Node::Leaf { value: 10.0 }, Node::Leaf { value: 20.0 }], 1).unwrap();
        let values = [1.0, 2.0, 2.000_001, f32::INFINITY, f32::NAN].map(|x| f64::from(tree.value(&[x])));
        assert_eq!(values.map(|value| value > 15.0), [false, false, true, true, true]);
    }

    #[test]
    fn rows_walked_together_end_where_they_end_alone() {
        let nodes = [split(0, 4.0, 1, 2), Node::Leaf { value: -1.5 }, split(1, 7.0, 3, 4), Node::Leaf { value: 2.5 }, LEAF];
        let trees = vec![Tree::new(&nodes, 2).unwrap(), Tree::new(&[Node::Leaf { value: 0.25 }], 2).unwrap()];
        let rows: Vec<f32> = (0_u8..=182).flat_map(|i| [f32::from(i % 9), f32::from(i % 11)]).collect();
        let mut means = vec![f64::NAN; rows.len() / 2];
        means_of_rows(&trees, &rows, 2, &mut means);
        let alone: Vec<f64> = rows.chunks(2).map(|row| mean_of_row(&trees, row)).collect();
        assert_eq!(means, alone);
    }

    #[test]
    fn nodes_that_make_no_tree_are_refused_by_name() {
        let refused = |nodes: &[Node]| Tree::new(nodes, 2).expect_err("refused");
        assert_eq!(refused(&[]), TreeError::Size { nodes: 0 });
        assert_eq!(refused(&[split(2, 0.0, 1, 2), LEAF, LEAF]), TreeError::Feature { node: 0, feature: 2, features: 2 });
        assert_eq!(refused(&[split(0, f32::NAN, 1, 2), LEAF, LEAF]), TreeError::NotFinite { node: 0 });
        assert_eq!(refused(&[Node::Leaf { value: f32::INFINITY }]), TreeError::NotFinite { node: 0 });
        assert_eq!(refused(&[split(0, 0.0, 1, 3), LEAF, LEAF]), TreeError::Child { node: 0, child: 3, nodes: 3 });
        assert_eq!(refused(&[split(0, 0.0, 1, 0), LEAF]), TreeError::Shared { node: 0 });
        assert_eq!(refused(&[split(0, 0.0, 1, 1), LEAF]), TreeError::Shared { node: 1 });
        assert_eq!(refused(&[LEAF, LEAF]), TreeError::Unreachable { nodes: 1 });
        let chain: Vec<Node> = (0..=MAX_DEPTH).flat_map(|i| [split(0, 0.0, 2 * i + 1, 2 * i + 2), LEAF]).chain([LEAF]).collect();
        assert_eq!(refused(&chain), TreeError::Depth);
    }

    #[test]
    fn the_nodes_that_went_in_come_out() {
        let nodes = [split(1, -3.5, 2, 1), LEAF, split(0, 0.0, 3, 4), LEAF, Node::Leaf { value: -0.0 }];
        let tree = Tree::new(&nodes, 2).unwrap();
        assert_eq!(tree.nodes().collect::<Vec<_>>(), nodes);
        assert_eq!(tree.depth(), 2);
    }
}
