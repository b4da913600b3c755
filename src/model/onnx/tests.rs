use linfa::traits::Fit;
use linfa::{Dataset, DatasetBase};
use ndarray::{Array1, Array2};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

use super::*;
use crate::model::forest::Forest;
use crate::model::isolation::IsolationForest;
use crate::train::forest::ForestParams;
use crate::train::isolation::IsolationParams;

fn rows() -> Array2<f32> {
    Array2::from_shape_fn((400, 3), |(row, feature)| ((row * (17 + feature)) % 97) as f32)
}

fn forest() -> Forest {
    let targets = Array1::from_shape_fn(400, |row| 1000.0 + ((row * 31) % 53) as f64);
    ForestParams::default().trees(3).depth(4).fit(&Dataset::new(rows(), targets)).unwrap().forest
}

fn isolation() -> IsolationForest {
    IsolationParams::default().trees(4).sample_rows(16).fit(&DatasetBase::from(rows())).unwrap()
}

fn labels() -> Labels {
    let metadata = [("aggregates", "{\"BUILD\":60000.5}"), ("", "")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    Labels { input: "features".to_owned(), output: "duration_ms".to_owned(), metadata: metadata.into() }
}

fn forest_file() -> Vec<u8> {
    encode_forest(&forest(), 1000.0, &labels()).unwrap()
}

#[test]
fn a_forest_comes_back_as_it_went_in() {
    let decoded = decode_forest(&forest_file()).unwrap();
    assert_eq!(decoded, DecodedForest { forest: forest(), floor: 1000.0, labels: labels() });
}

#[test]
fn an_isolation_forest_comes_back_as_it_went_in() {
    for forest in [isolation(), isolation().with_threshold(f64::INFINITY)] {
        let decoded = decode_isolation(&encode_isolation(&forest, &labels()).unwrap()).unwrap();
        assert_eq!(decoded, DecodedIsolation { forest, labels: labels() });
    }
}

#[test]
fn one_kind_of_file_is_not_taken_for_the_other() {
    let refused = decode_isolation(&forest_file()).unwrap_err().to_string();
    assert!(refused.contains(r#"("", "Max")"#) && refused.contains(r#"("", "Pow")"#), "{refused}");
    assert!(decode_forest(&encode_isolation(&isolation(), &labels()).unwrap()).is_err());
}

#[test]
fn what_could_not_be_read_back_is_not_written() {
    let encode = |labels: &Labels, floor| encode_forest(&forest(), floor, labels).unwrap_err();
    assert!(matches!(encode(&labels(), f32::NAN), EncodeError::Floor { .. }));
    for (input, output) in [("", "y"), ("x", ""), ("x", "x"), ("mean", "y"), ("x", "floor")] {
        let labels = Labels { input: input.to_owned(), output: output.to_owned(), ..Labels::default() };
        assert!(matches!(encode(&labels, 0.0), EncodeError::Names { .. }), "{input} {output}");
    }
    let mut own = labels();
    own.metadata.insert("tidemark.threshold".to_owned(), "0".to_owned());
    assert!(matches!(encode(&own, 0.0), EncodeError::Key { .. }));
}

#[test]
fn empty_and_oversized_files_are_refused_by_name() {
    assert!(decode_forest(&[]).unwrap_err().to_string().contains("operator sets are []"));
    assert_eq!(decode_forest(&vec![0; MAX_BYTES + 1]), Err(DecodeError::Size { bytes: MAX_BYTES + 1 }));
    assert!(matches!(decode_forest(b"PK\x03\x04 not a model"), Err(DecodeError::Message { part: "model", .. })));
}

#[test]
fn messages_in_great_number_are_counted_before_they_are_read() {
    let nodes = [0x0a, 0x00].repeat(1 << 20);
    let mut file = forest_file();
    file.extend([0x3a]); // field 7, the graph, merged into the first one
    let mut length = nodes.len();
    while length > 127 {
        file.push(u8::try_from(length % 128).unwrap() | 128);
        length /= 128;
    }
    file.push(u8::try_from(length).unwrap());
    file.extend(nodes);
    assert!(decode_forest(&file).unwrap_err().to_string().contains("1048578 nodes, more than 32"));
}

#[test]
fn no_mutation_of_a_file_makes_decoding_panic_or_a_model_that_cannot_answer() {
    let files = [forest_file(), encode_isolation(&isolation(), &labels()).unwrap()];
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(20_000);
    let mut below = |bound: usize| usize::try_from(rng.next_u64() % bound as u64).unwrap();
    let row = [f32::NAN, 5.0, f32::INFINITY];
    let mut refused = 0;
    for round in 0..20_000 {
        let mut file = files[round % 2].clone();
        for _ in 0..=below(4) {
            let at = below(file.len());
            match below(5) {
                0 => file[at] = u8::try_from(below(256)).unwrap(),
                1 => file[at] ^= 1 << below(8),
                2 => file.truncate(at.max(1)),
                3 => drop(file.splice(at..at, [0xff; 9])),
                _ => drop(file.splice(at..(at + below(64)).min(file.len()), files[0][..below(64)].to_vec())),
            }
            if file.is_empty() {
                file.push(0);
            }
        }
        let (forest, isolation) = (decode_forest(&file), decode_isolation(&file));
        refused += usize::from(forest.is_err() && isolation.is_err());
        if let Ok(decoded) = forest {
            assert!(decoded.forest.features() != 3 || decoded.forest.predict_row(&row).is_finite());
        }
        if let Ok(decoded) = isolation {
            assert!(decoded.forest.features() != 3 || !decoded.forest.score_row(&row).is_nan());
        }
    }
    assert!((10_000..20_000).contains(&refused), "{refused}");
}
