//! From rows of truth and a model's scores to figures.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::{
    Row, Truth, fold,
    stats::{self, Figure, Scored},
};

/// Positives that a label needs before it counts in a mean.
pub const MIN_POSITIVES: usize = 30;

/// What a model looks for, as its manifest says.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownLabel {
    /// Its name.
    pub name: String,
    /// Other names for the same concept.
    pub synonyms: Vec<String>,
    /// At and above this probability it is a finding; absent where nobody has set one.
    pub threshold: Option<f64>,
}

/// Why nothing can be measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The table judges nothing that the model knows.
    #[error(
        "the table of labels names {found}, and the model looks for none of them; it knows {known}: name its findings so, or measure another model"
    )]
    NothingInCommon {
        /// Names in the table.
        found: String,
        /// The model's labels.
        known: String,
    },
    /// The table says something else than what is measured here.
    #[error(
        "a classifier is measured by a column `findings` or `label`, and the table has neither; triage is measured by `scope` (--triage), a model of heart and lungs by `ctr`"
    )]
    NoFindings,
}

/// One label's figures. A figure is absent where its images are missing.
#[derive(Debug, Clone, Serialize)]
pub struct LabelFigures {
    /// Images where it is there.
    pub positives: usize,
    /// Images where it is not.
    pub negatives: usize,
    /// The operating point.
    pub threshold: Option<f64>,
    /// Area under the receiver operating characteristic.
    pub auroc: Option<Figure>,
    /// Average precision.
    pub auprc: Option<Figure>,
    /// At the operating point.
    pub sensitivity: Option<Figure>,
    /// At the operating point.
    pub specificity: Option<Figure>,
    /// Expected calibration error.
    pub ece: Option<Figure>,
}

/// A classifier's figures.
#[derive(Debug, Clone, Serialize)]
pub struct ClassifierFigures {
    /// Mean over the labels with at least [`MIN_POSITIVES`] positives.
    pub mean_auroc: Option<Figure>,
    /// Mean expected calibration error over the same labels.
    pub ece: Option<Figure>,
    /// Labels in that mean.
    pub mean_over: Vec<String>,
    /// Every label that the table judges.
    pub labels: BTreeMap<String, LabelFigures>,
    /// Mean AUROC within groups of patients: `sex`, `age`, `view`, then the group.
    pub groups: Groups,
    /// Names in the table that the model does not know.
    pub unknown_names: Vec<String>,
}

/// One label's scores, for curves and pictures.
#[derive(Debug, Clone)]
pub struct LabelScores {
    /// The label.
    pub name: String,
    /// The row that each score belongs to.
    pub rows: Vec<usize>,
    /// Score and truth.
    pub scored: Vec<Scored>,
}

/// The table's patients as numbers; a row without one is a patient of its own.
pub fn patients(rows: &[Row]) -> Vec<usize> {
    let mut known = HashMap::new();
    rows.iter()
        .map(|row| {
            let name = row
                .patient
                .as_deref()
                .map_or_else(|| format!("file {}", row.file), |p| format!("patient {p}"));
            let next = known.len();
            *known.entry(name).or_insert(next)
        })
        .collect()
}

/// Every label that `rows` judge, with the scores of the rows that were scored. `scores` has a row's probabilities in
/// the order of `known`, or `None` where the image could not be read.
///
/// A label is judged where some row names it; a row that does not name it, or not for certain, counts as without it,
/// or not at all.
///
/// # Errors
///
/// Where the rows hold no findings, or name nothing that the model knows.
pub fn label_scores(
    known: &[KnownLabel],
    rows: &[Row],
    scores: &[Option<Vec<f64>>],
) -> Result<(Vec<LabelScores>, Vec<String>), MeasureError> {
    let mut of_name: HashMap<String, usize> = HashMap::new();
    for (i, label) in known.iter().enumerate() {
        for name in std::iter::once(&label.name).chain(&label.synonyms) {
            of_name.entry(fold(name)).or_insert(i);
        }
    }
    let patients = patients(rows);
    let mut judged = vec![false; known.len()];
    let mut unknown = std::collections::BTreeSet::new();
    let mut truths = Vec::with_capacity(rows.len());
    for row in rows {
        let Truth::Findings { present, uncertain } = &row.truth else {
            return Err(MeasureError::NoFindings);
        };
        // Present outweighs uncertain where two names mean one label.
        let mut truth: Vec<Option<bool>> = vec![Some(false); known.len()];
        for (names, value) in [(uncertain, None), (present, Some(true))] {
            for name in names {
                match of_name.get(&fold(name)) {
                    Some(&i) => {
                        if let (Some(slot), Some(judged)) = (truth.get_mut(i), judged.get_mut(i)) {
                            *slot = value;
                            *judged = true;
                        }
                    }
                    None => {
                        unknown.insert(name.clone());
                    }
                }
            }
        }
        truths.push(truth);
    }
    if !judged.contains(&true) {
        return Err(MeasureError::NothingInCommon {
            found: match unknown.is_empty() {
                true => "no finding in any row".to_owned(),
                false => unknown.into_iter().take(20).collect::<Vec<_>>().join(", "),
            },
            known: known.iter().map(|label| label.name.as_str()).collect::<Vec<_>>().join(", "),
        });
    }
    let mut labels = Vec::new();
    for (i, label) in known.iter().enumerate().filter(|&(i, _)| judged.get(i) == Some(&true)) {
        let (mut of_rows, mut scored) = (Vec::new(), Vec::new());
        for (row, ((truth, score), &patient)) in
            truths.iter().zip(scores).zip(&patients).enumerate()
        {
            let truth = truth.get(i).copied().flatten();
            let score = score.as_ref().and_then(|scores| scores.get(i)).copied();
            if let (Some(positive), Some(score)) = (truth, score) {
                of_rows.push(row);
                scored.push(Scored { score, positive, patient });
            }
        }
        labels.push(LabelScores { name: label.name.clone(), rows: of_rows, scored });
    }
    Ok((labels, unknown.into_iter().collect()))
}

/// A classifier's figures from its scores.
pub fn classifier(
    known: &[KnownLabel],
    rows: &[Row],
    labels: &[LabelScores],
    unknown_names: Vec<String>,
) -> ClassifierFigures {
    let enough: Vec<&LabelScores> =
        labels.iter().filter(|label| positives(&label.scored) >= MIN_POSITIVES).collect();
    let scored: Vec<_> = enough.iter().map(|label| label.scored.clone()).collect();
    let threshold = |name: &str| {
        known.iter().find(|label| label.name == name).and_then(|label| label.threshold)
    };
    ClassifierFigures {
        mean_auroc: stats::mean_auroc(&scored),
        ece: stats::mean_calibration_error(&scored),
        mean_over: enough.iter().map(|label| label.name.clone()).collect(),
        labels: labels
            .iter()
            .map(|label| (label.name.clone(), figures(&label.scored, threshold(&label.name))))
            .collect(),
        groups: groups(rows, &enough),
        unknown_names,
    }
}

fn positives(scored: &[Scored]) -> usize {
    scored.iter().filter(|one| one.positive).count()
}

fn figures(scored: &[Scored], threshold: Option<f64>) -> LabelFigures {
    let positives = positives(scored);
    let negatives = scored.len() - positives;
    let found = |at: f64| scored.iter().filter(|one| one.positive && one.score >= at).count();
    let left = |at: f64| scored.iter().filter(|one| !one.positive && one.score < at).count();
    LabelFigures {
        positives,
        negatives,
        threshold,
        auroc: stats::auroc(scored),
        auprc: stats::auprc(scored),
        sensitivity: threshold.and_then(|at| stats::share(found(at), positives)),
        specificity: threshold.and_then(|at| stats::share(left(at), negatives)),
        ece: stats::calibration_error(scored),
    }
}

/// A figure by `sex`, `age` or `view`, then by group.
pub type Groups = BTreeMap<String, BTreeMap<String, Option<Figure>>>;

/// A row's group, where the table names one.
type GroupOf<'a> = &'a dyn Fn(&Row) -> Option<String>;

pub(crate) fn groups(rows: &[Row], labels: &[&LabelScores]) -> Groups {
    by_group(rows, |inside| {
        let scored: Vec<Vec<Scored>> = labels
            .iter()
            .map(|label| {
                let pairs = label.rows.iter().zip(&label.scored);
                pairs.filter(|(row, _)| inside(**row)).map(|(_, one)| *one).collect()
            })
            .collect();
        stats::mean_auroc(&scored)
    })
}

/// A figure within each group of patients: `sex`, `age` and `view`, then the group. `figure` is asked with which rows
/// are inside.
pub(crate) fn by_group(
    rows: &[Row],
    figure: impl Fn(&dyn Fn(usize) -> bool) -> Option<Figure>,
) -> Groups {
    let band = |age: f64| match age {
        age if age < 18.0 => "0-17",
        age if age < 40.0 => "18-39",
        age if age < 60.0 => "40-59",
        age if age < 80.0 => "60-79",
        _ => "80+",
    };
    let mut groups = BTreeMap::new();
    let kinds: [(&str, GroupOf<'_>); 3] = [
        ("sex", &|row| row.sex.clone()),
        ("age", &|row| row.age.map(|age| band(age).to_owned())),
        ("view", &|row| row.view.clone()),
    ];
    for (kind, group_of) in kinds {
        let names: std::collections::BTreeSet<_> = rows.iter().filter_map(group_of).collect();
        // More groups than this are no groups: a column of free text.
        if names.is_empty() || names.len() > 12 {
            continue;
        }
        let within =
            |name: &String| figure(&|row| rows.get(row).and_then(group_of).as_ref() == Some(name));
        let figures = names.iter().map(|name| (name.clone(), within(name))).collect();
        groups.insert(kind.to_owned(), figures);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Table;

    fn known() -> Vec<KnownLabel> {
        let label = |name: &str, synonyms: &[&str]| KnownLabel {
            name: name.into(),
            synonyms: synonyms.iter().map(|&s| s.into()).collect(),
            threshold: (name != "Mass").then_some(0.5),
        };
        vec![label("Effusion", &["Pleural Effusion"]), label("Mass", &[])]
    }

    fn rows(csv: &str) -> Vec<Row> {
        Table::read(csv.as_bytes()).unwrap().rows
    }

    #[test]
    fn a_synonym_is_the_label_and_uncertain_counts_neither_way() {
        let rows =
            rows("file,findings\na,Pleural Effusion\nb,u:effusion\nc,No Finding\nd,Hernia\n");
        let scores: Vec<_> = [0.9, 0.8, 0.1, 0.2].map(|p| Some(vec![p, 0.0])).into();
        let (labels, unknown) = label_scores(&known(), &rows, &scores).unwrap();
        assert_eq!(unknown, ["Hernia"]);
        // Mass is named nowhere: the table does not judge it.
        assert_eq!(labels.len(), 1);
        assert_eq!(labels[0].rows, [0, 2, 3]);
        let figures = classifier(&known(), &rows, &labels, unknown);
        let effusion = &figures.labels["Effusion"];
        assert_eq!((effusion.positives, effusion.negatives), (1, 2));
        assert_eq!(effusion.auroc.unwrap().value, 1.0);
        assert_eq!(effusion.sensitivity.unwrap().value, 1.0);
        assert!(figures.mean_auroc.is_none(), "one positive is too few for the mean");
    }

    #[test]
    fn without_an_operating_point_there_is_no_sensitivity() {
        let rows = rows("file,findings\na,Mass\nb,No Finding\n");
        let scores: Vec<_> = [0.9, 0.1].map(|p| Some(vec![0.0, p])).into();
        let (labels, unknown) = label_scores(&known(), &rows, &scores).unwrap();
        let mass = &classifier(&known(), &rows, &labels, unknown).labels["Mass"];
        assert_eq!(mass.auroc.unwrap().value, 1.0);
        assert!(
            mass.sensitivity.is_none() && mass.specificity.is_none() && mass.threshold.is_none()
        );
    }

    #[test]
    fn a_table_without_a_known_label_is_refused_by_name() {
        let rows = rows("file,label\na,Hernia\n");
        let message = label_scores(&known(), &rows, &[None]).unwrap_err().to_string();
        assert!(message.contains("Hernia") && message.contains("Effusion, Mass"), "{message}");
    }
}
