//! The served generalist in this stage: an image that gets no answer is flagged, and a server that is not there stops
//! nothing.

use std::{sync::Arc, time::Duration};

use duet_case::{Case, Decision, Priority, Probability, Triage as Section};
use duet_inference::{DecisionRules, Served, ServedFailure, ServedLook};
use duet_telemetry::{HealthItem, metrics};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Between two probes while the start waits, and afterwards.
const PROBES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(15)];

/// From this age on a film that nobody triaged counts as an adult's.
const ADULT_YEARS: u8 = 10;

/// The rules for one answer: a model that the calibration is not of clears nothing.
pub(crate) fn rules_for(answer: &ServedLook, rules: &DecisionRules) -> DecisionRules {
    let mut rules = rules.clone();
    if !answer.is_calibrated {
        rules.clear_below = None;
    }
    rules
}

/// What is decided of an image that got no answer: flagged, and read as a frontal film, so that a specialist looks.
pub(crate) fn unanswered(case: &Case, served: &Served, failure: &ServedFailure) -> Section {
    let reason = failure.kind.name();
    metrics().backend_failures.with_label_values(&[reason, "flagged"]).inc();
    warn!(case = case.id.as_str(), reason, "not triaged, flagged: {failure}");
    let is_child = case.source.patient.age_years.is_some_and(|years| years < ADULT_YEARS);
    let (kind, meaning) = match is_child {
        true => ("chest-radiograph-child", "chest radiograph of a child, frontal"),
        false => ("chest-radiograph-frontal", "chest radiograph, frontal"),
    };
    let reasons = vec![
        format!("the served generalist gave no answer that counts: {failure}"),
        format!("nothing is known of it: read as {meaning}, and as abnormal"),
    ];
    Section {
        decision: Decision::Flagged,
        priority: Priority::Urgent,
        reasons,
        kind: kind.to_owned(),
        kind_meaning: format!("not known, read as {meaning}"),
        fitness: "not-known".to_owned(),
        abnormal: Probability::ONE,
        clear_below: None,
        rules: None,
        audit: false,
        scores: Vec::new(),
        model: served.model(),
    }
}

/// Waits until the server has answered about a drawn picture, as long as the configuration lets it; afterwards it is
/// asked again until it does. `health` says what is wrong meanwhile.
pub async fn stand_by(served: &Arc<Served>, health: HealthItem, shutdown: &CancellationToken) {
    health.not_ready("asking the served generalist about a drawn picture");
    let until = Instant::now() + served.start_wait();
    loop {
        let Err(fault) = attempt(served, &health).await else { return };
        if !fault.may_pass || Instant::now() >= until {
            warn!("the served generalist cannot be used; images are flagged until it can: {fault}");
            break;
        }
        tokio::select! {
            () = sleep(PROBES[0]) => {}
            () = shutdown.cancelled() => return,
        }
    }
    let (served, shutdown) = (Arc::clone(served), shutdown.clone());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = sleep(PROBES[1]) => {}
                () = shutdown.cancelled() => return,
            }
            if attempt(&served, &health).await.is_ok() {
                return;
            }
        }
    });
}

async fn attempt(served: &Served, health: &HealthItem) -> Result<(), duet_inference::ProbeFault> {
    let probed = served.probe().await;
    match &probed {
        Ok(()) => {
            let model = served.model();
            info!(model = model.name, server = served.address(), "the served generalist answers");
            health.ready();
        }
        Err(fault) => health.not_ready(&fault.to_string()),
    }
    probed
}
