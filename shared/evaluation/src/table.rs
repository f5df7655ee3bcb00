//! The table of truth: one row an image, from a CSV file with a header.
//!
//! `file` and one of `findings` (names joined by `|`), `label` (one name), `scope` (`chest` or `other`) and `ctr` (the
//! true cardiothoracic ratio, empty where nobody measured it; it may stand beside another); optional `patient`, `age`,
//! `sex`, `view`. `No Finding` and `Normal` stand for none; a name with `u:` before it is uncertain and judged neither
//! way. The rows decide what is evaluated, not the files of a folder.

use std::{collections::BTreeSet, io::Read};

/// Why a table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Not readable as CSV.
    #[error("the table of labels is not readable as CSV: {0}")]
    Csv(#[from] csv::Error),
    /// No column says which image.
    #[error("the table of labels has no column `file`; its columns are {columns}")]
    NoFile {
        /// The header.
        columns: String,
    },
    /// No column says what is true.
    #[error(
        "the table of labels has none of the columns findings, label, scope and ctr; its columns are {columns}"
    )]
    NoTruth {
        /// The header.
        columns: String,
    },
    /// A cell that says nothing known.
    #[error(
        "row {row} of the table of labels ({file}): {column} is {value:?}, expected {expected}"
    )]
    Cell {
        /// Counted from 1, without the header.
        row: usize,
        /// The row's image.
        file: String,
        /// The column.
        column: &'static str,
        /// What it says.
        value: String,
        /// What it may say.
        expected: &'static str,
    },
    /// Nothing to evaluate.
    #[error(
        "the table of labels has a header and no rows: give one row for each image to evaluate"
    )]
    Empty,
}

/// What is true of an image.
#[derive(Debug, Clone, PartialEq)]
pub enum Truth {
    /// Findings by name.
    Findings {
        /// Those that are there; none where the image is normal.
        present: BTreeSet<String>,
        /// Those of which nobody is certain.
        uncertain: BTreeSet<String>,
    },
    /// Whether it is a chest radiograph.
    Scope {
        /// `chest`, or else `other`.
        chest: bool,
    },
    /// Nothing: the table has the cardiothoracic ratio alone.
    Unjudged,
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The image's name within its folder or archive.
    pub file: String,
    /// What is true of it.
    pub truth: Truth,
    /// The true cardiothoracic ratio, where somebody measured it.
    pub ctr: Option<f64>,
    /// Images of one patient have one text here.
    pub patient: Option<String>,
    /// Years.
    pub age: Option<f64>,
    /// As written.
    pub sex: Option<String>,
    /// As written.
    pub view: Option<String>,
}

/// Every row, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// At least one.
    pub rows: Vec<Row>,
    /// Whether there is a column `ctr`.
    pub has_ctr: bool,
}

/// A finding's name for comparison: letters and digits alone, lower case.
pub fn fold(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn is_none(name: &str) -> bool {
    matches!(fold(name).as_str(), "" | "nofinding" | "nofindings" | "normal")
}

impl Table {
    /// Reads a table.
    ///
    /// # Errors
    ///
    /// [`TableError`], with the row and the column.
    pub fn read(input: impl Read) -> Result<Self, TableError> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(input);
        let header = reader.headers()?.clone();
        let columns = || header.iter().collect::<Vec<_>>().join(", ");
        // Spreadsheets write a byte order mark before the first name, and people write names as they like.
        let plain = |own: &str| own.trim_start_matches('\u{feff}').trim().to_lowercase();
        let column = |name: &str| header.iter().position(|own| plain(own) == name);
        let file = column("file").ok_or_else(|| TableError::NoFile { columns: columns() })?;
        let truths = [
            ("findings", column("findings")),
            ("label", column("label")),
            ("scope", column("scope")),
        ];
        let (kind, truth) = truths
            .into_iter()
            .find_map(|(kind, at)| Some((kind, at?)))
            .or_else(|| Some(("ctr", column("ctr")?)))
            .ok_or_else(|| TableError::NoTruth { columns: columns() })?;
        let ctr = column("ctr");
        let others = ["patient", "age", "sex", "view"].map(column);

        let mut rows = Vec::new();
        for (i, record) in reader.records().enumerate() {
            let record = record?;
            let cell = |at: Option<usize>| {
                at.and_then(|at| record.get(at)).filter(|text| !text.is_empty()).map(str::to_owned)
            };
            let [patient, age, sex, view] = others.map(cell);
            let file = cell(Some(file)).unwrap_or_default();
            let wrong = |column, value: &str, expected| TableError::Cell {
                row: i + 1,
                file: file.clone(),
                column,
                value: value.to_owned(),
                expected,
            };
            let text = record.get(truth).unwrap_or_default();
            let truth = match kind {
                "scope" => match text.to_lowercase().as_str() {
                    "chest" => Truth::Scope { chest: true },
                    "other" => Truth::Scope { chest: false },
                    _ => return Err(wrong("scope", text, "chest or other")),
                },
                "ctr" => Truth::Unjudged,
                "label" => findings([text].into_iter()),
                _ => findings(text.split('|')),
            };
            if file.is_empty() {
                return Err(wrong("file", "", "the name of an image"));
            }
            let ctr = match cell(ctr) {
                None => None,
                Some(text) => match text.parse::<f64>() {
                    Ok(ratio) if (0.05..=1.0).contains(&ratio) => Some(ratio),
                    _ => return Err(wrong("ctr", &text, "a ratio from 0.05 to 1, or nothing")),
                },
            };
            let age = match &age {
                None => None,
                Some(text) => match years(text) {
                    Some(years) if (0.0..=130.0).contains(&years) => Some(years),
                    // Public sets have ages such as 411; such a row is kept and counts in no age group.
                    Some(_) => None,
                    None => {
                        return Err(wrong("age", text, "a number of years, or 057Y as in DICOM"));
                    }
                },
            };
            rows.push(Row { file, truth, ctr, patient, age, sex, view });
        }
        if rows.is_empty() {
            return Err(TableError::Empty);
        }
        Ok(Self { rows, has_ctr: ctr.is_some() })
    }
}

/// Years, as a number or as DICOM writes an age (`057Y`, `006M`, `003W`, `010D`).
fn years(text: &str) -> Option<f64> {
    let units = [('Y', 1.0), ('M', 12.0), ('W', 52.18), ('D', 365.25)];
    let unit = units.iter().find(|(unit, _)| text.ends_with([*unit, unit.to_ascii_lowercase()]));
    let (digits, a_year) = match unit {
        Some((_, a_year)) => (text.get(..text.len() - 1)?, *a_year),
        None => (text, 1.0),
    };
    digits.trim().parse::<f64>().ok().map(|count| count / a_year)
}

fn findings<'a>(names: impl Iterator<Item = &'a str>) -> Truth {
    let (mut present, mut uncertain) = (BTreeSet::new(), BTreeSet::new());
    for name in names.map(str::trim).filter(|name| !is_none(name)) {
        match name.strip_prefix("u:").or_else(|| name.strip_prefix("U:")) {
            Some(name) => uncertain.insert(name.trim().to_owned()),
            None => present.insert(name.to_owned()),
        };
    }
    Truth::Findings { present, uncertain }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn truths(csv: &str) -> Vec<Truth> {
        let table = Table::read(csv.as_bytes()).unwrap();
        table.rows.into_iter().map(|row| row.truth).collect()
    }

    #[test]
    fn every_kind_of_truth_is_read() {
        let findings = |present: &[&str], uncertain: &[&str]| Truth::Findings {
            present: set(present),
            uncertain: set(uncertain),
        };
        let cases = [
            (
                "file,findings\na,Mass|Pleural Effusion\n",
                findings(&["Mass", "Pleural Effusion"], &[]),
            ),
            ("file,findings\na,No Finding\n", findings(&[], &[])),
            ("file,findings\na,NORMAL\n", findings(&[], &[])),
            ("file,findings\na,\n", findings(&[], &[])),
            ("file,findings\na,u:Mass|Edema\n", findings(&["Edema"], &["Mass"])),
            ("file,label\na,pneumonia\n", findings(&["pneumonia"], &[])),
            ("file,scope\na,chest\n", Truth::Scope { chest: true }),
            ("file,scope\na,other\n", Truth::Scope { chest: false }),
            ("file,scope\na,Chest\n", Truth::Scope { chest: true }),
            ("\u{feff}File,Findings\na,Mass\n", findings(&["Mass"], &[])),
            ("file,ctr\na,0.48\n", Truth::Unjudged),
            ("file,ctr,label\na,0.48,Cardiomegaly\n", findings(&["Cardiomegaly"], &[])),
        ];
        for (csv, expected) in cases {
            assert_eq!(truths(csv), [expected], "{csv}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_place() {
        let cases = [
            ("name,findings\na,Mass\n", "no column `file`"),
            ("file,truth\na,Mass\n", "none of the columns"),
            ("file,scope\na,chest\nb,hand\n", "row 2"),
            ("file,findings\n", "no rows"),
            ("file,findings,age\na,Mass,old\n", "age is \"old\""),
            ("file,findings\n,Mass\n", "file is \"\""),
            ("file,ctr\na,0.4\nb,48\n", "row 2 of the table of labels (b): ctr is \"48\""),
        ];
        for (csv, expected) in cases {
            let message = Table::read(csv.as_bytes()).unwrap_err().to_string();
            assert!(message.contains(expected), "{csv}: {message}");
        }
    }

    #[test]
    fn optional_columns_are_kept() {
        let csv = "file,patient,label,age,view,sex\na,p1,normal,57,PA,F\nb,,normal,411,,\n";
        let table = Table::read(csv.as_bytes()).unwrap();
        assert_eq!(table.rows[0].patient.as_deref(), Some("p1"));
        assert_eq!((table.rows[0].age, table.rows[1].age), (Some(57.0), None));
        assert_eq!(table.rows[1].view, None);
        assert!(!table.has_ctr);
        for (text, expected) in [("057Y", 57.0), ("006m", 0.5), ("40.5", 40.5)] {
            let csv = format!("file,label,age\na,normal,{text}\n");
            assert_eq!(Table::read(csv.as_bytes()).unwrap().rows[0].age, Some(expected));
        }
        let table = Table::read("file,ctr\na,0.48\nb,\n".as_bytes()).unwrap();
        assert!(table.has_ctr);
        assert_eq!(table.rows.iter().map(|row| row.ctr).collect::<Vec<_>>(), [Some(0.48), None]);
    }
}
