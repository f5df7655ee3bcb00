//! The served generalist on a real server, llama.cpp's with a tiny model of random weights: what it says is chance, that it
//! comes whole and by the schema is not. Right, and misconfigured in the ways that users do.

use std::sync::Arc;

use duet_case::{Case, Decision};
use duet_inference::{ApiKey, BackendConfig, Served};
use duet_tests::{Ends, TEMPLATE, VlmServer};
use duet_triage::Generalist;

use crate::pipeline::{Chain, PATIENCE, assert_is_whole, phantom};

fn served(server: &VlmServer, key: &str, edit: impl FnOnce(&mut BackendConfig)) -> Arc<Served> {
    let mut config = BackendConfig { url: Some(server.url()), ..BackendConfig::default() };
    edit(&mut config);
    let key = ApiKey::new("the test", key).unwrap();
    Arc::new(Served::open(&config, Some(key)).unwrap().unwrap())
}

/// The reports on two phantoms that went through the whole chain.
async fn reports(served: &Arc<Served>) -> Vec<Case> {
    let chain = Chain::on(Generalist::Served(Arc::clone(served))).await;
    let mut ends = chain.ends().await;
    let films = [phantom(0), phantom(1)];
    chain.feed(films.clone()).await;
    ends.wait_for(films.len(), PATIENCE).await.unwrap();
    let report = |film: &Vec<u8>, ends: &Ends| {
        let [report] = ends.reports_on(film) else { panic!("one report on a film") };
        assert_is_whole(report, ends);
        report.clone()
    };
    films.iter().map(|film| report(film, &ends)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_triaged_end_to_end_by_a_real_server_under_a_schema() {
    let server = VlmServer::start(&TEMPLATE).unwrap();
    let served = served(&server, VlmServer::KEY, |_| {});
    served.probe().await.unwrap();
    for report in reports(&served).await {
        let triage = report.triage.as_ref().unwrap();
        assert_eq!(triage.model.name, VlmServer::MODEL);
        assert_ne!(triage.model.version, "not stated by the server");
        let hop = report.hops.iter().find(|hop| hop.stage == "triage").unwrap();
        assert_eq!(hop.models.iter().collect::<Vec<_>>(), [&triage.model]);
        // Answered: each question has its score, and nothing is said of a failure.
        for question in ["kind", "fitness", "abnormal", "urgency"] {
            assert!(
                triage.scores.iter().any(|own| own.question == question),
                "{question}: {triage:?}"
            );
        }
        assert!(!triage.reasons.iter().any(|own| own.contains("gave no answer")), "{triage:?}");
        assert_ne!(triage.decision, Decision::Cleared, "nobody calibrated it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_server_that_is_misconfigured_clears_nothing_and_is_told_of() {
    /// Arguments of the server, the key, the reason in every report, and what the start says.
    type Row<'a> = (&'a [&'a str], &'a str, &'a str, &'a str);
    let ignores = [&TEMPLATE[..], &["--skip-chat-parsing"]].concat();
    let rows: [Row<'_>; 3] = [
        (
            &TEMPLATE,
            "wrong-key",
            "(unauthorised)",
            "it refuses the key: correct triage.backend.api_key_file",
        ),
        // The default template: the grammar of the schema fails.
        (&[], VlmServer::KEY, "(status)", "status 400"),
        // The schema is silently ignored: free text, whole or cut off.
        (&ignores, VlmServer::KEY, "gave no answer that counts", "a drawn picture"),
    ];
    for (arguments, key, reason, told) in rows {
        let server = VlmServer::start(arguments).unwrap();
        let served = served(&server, key, |own| own.max_tokens = 64);
        let fault = served.probe().await.unwrap_err().to_string();
        assert!(fault.contains(told), "{arguments:?}: {fault}");
        for report in reports(&served).await {
            let triage = report.triage.as_ref().unwrap();
            assert_eq!(triage.decision, Decision::Flagged, "{arguments:?}: {triage:?}");
            assert!(triage.reasons[0].contains(reason), "{arguments:?}: {triage:?}");
        }
    }
}
