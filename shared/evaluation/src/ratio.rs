//! A measured ratio's figures: how far it is from the truth.

use serde::Serialize;

use crate::{
    Row, Truth,
    measure::{MeasureError, patients, wrong_kind},
    stats::{self, Figure, Scored},
};

/// A measured ratio's figures.
#[derive(Debug, Clone, Serialize)]
pub struct RatioFigures {
    /// Mean absolute error.
    pub mae: Option<Figure>,
    /// Of telling ratios over 0.5 from the others by the measured one.
    pub auroc_over_0_5: Option<Figure>,
}

/// The figures of measured cardiothoracic ratios. `measured` has `None` where nothing could be measured.
///
/// # Errors
///
/// Where the rows are about something else.
pub fn ratio(rows: &[Row], measured: &[Option<f64>]) -> Result<RatioFigures, MeasureError> {
    let patients = patients(rows);
    let (mut errors, mut of, mut scored) = (Vec::new(), Vec::new(), Vec::new());
    for ((row, measured), &patient) in rows.iter().zip(measured).zip(&patients) {
        let Truth::Ctr(truth) = row.truth else {
            return Err(wrong_kind(&row.truth, "a segmentation model is measured by `ctr`"));
        };
        if let &Some(score) = measured {
            errors.push((score - truth).abs());
            of.push(patient);
            scored.push(Scored { score, positive: truth > 0.5, patient });
        }
    }
    Ok(RatioFigures { mae: stats::mean(&errors, &of), auroc_over_0_5: stats::auroc(&scored) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Table;

    fn rows(csv: &str) -> Vec<Row> {
        Table::read(csv.as_bytes()).unwrap().rows
    }

    #[test]
    fn ratios_are_measured_by_their_error() {
        let rows = rows("file,ctr\na,0.40\nb,0.60\n");
        let figures = ratio(&rows, &[Some(0.45), Some(0.55)]).unwrap();
        assert!((figures.mae.unwrap().value - 0.05).abs() < 1e-12);
        assert_eq!(figures.auroc_over_0_5.unwrap().value, 1.0);
        assert!(crate::triage::triage(&rows, &[None, None]).is_err());
    }
}
