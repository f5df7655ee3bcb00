//! Coded concepts (SNOMED CT; Duet's own where it has none) with the names by which labelled sets call them: a set's `Pleural Effusion` is a model's
//! `Effusion` because both are 60046008, whatever the model's manifest lists as synonyms.
//!
//! Only names of the same concept stand here. A wider one does not (CheXpert's `Lung Opacity` is no consolidation), nor
//! one that joins two (VinDr's `Nodule/Mass`).

/// Code, and names as sets write them.
const NAMES: &[(&str, &[&str])] = &[
    ("46621007", &["Atelectasis", "Pulmonary atelectasis", "Lung atelectasis"]),
    (
        "8186001",
        &["Cardiomegaly", "Enlarged heart", "Cardiac enlargement", "Enlarged cardiac silhouette"],
    ),
    ("95436008", &["Consolidation", "Lung consolidation", "Airspace consolidation"]),
    ("19242006", &["Edema", "Oedema", "Pulmonary edema", "Pulmonary oedema", "Lung edema"]),
    ("60046008", &["Effusion", "Pleural effusion", "Pleural effusions"]),
    ("87433001", &["Emphysema", "Pulmonary emphysema"]),
    ("51615001", &["Fibrosis", "Pulmonary fibrosis", "Lung fibrosis"]),
    ("39839004", &["Hernia", "Diaphragmatic hernia", "Hiatal hernia", "Hiatus hernia"]),
    ("309529002", &["Mass", "Lung mass", "Pulmonary mass"]),
    ("786838002", &["Nodule", "Lung nodule", "Pulmonary nodule"]),
    ("pleural-thickening", &["Pleural thickening", "Thickened pleura"]),
    (
        "409609008",
        &["Infiltration", "Infiltrate", "Infiltrates", "Lung infiltrate", "Pulmonary infiltrate"],
    ),
    ("233604007", &["Pneumonia", "Lung infection"]),
    ("36118008", &["Pneumothorax"]),
];

/// The names of the concept `code`; none where it does not stand here.
pub fn names(code: &str) -> &'static [&'static str] {
    NAMES.iter().find(|(own, _)| *own == code).map_or(&[], |(_, names)| names)
}
