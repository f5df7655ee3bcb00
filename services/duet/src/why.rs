//! `duet why`: why an image was flagged, cleared, refused or given up, out of what its Case says and what the models'
//! manifests say of their questions.

mod find;
mod prompts;
mod tell;

use anyhow::{Context as _, Result};
use duet_case::Case;
use duet_stage::DeadLetter;
use serde_json::json;

use crate::{cli, config::Config, dead_letters, output};
pub(crate) use find::TOPICS;
use find::{Found, Letter, Wanted};
use prompts::Prompts;

/// Larger than any Case: what is larger is something else.
const MAX_CASE_BYTES: u64 = 64 << 20;

pub(crate) async fn run(args: &cli::Why, config: &Config) -> Result<()> {
    let found = match (&args.file, &args.case) {
        (Some(file), _) => {
            let bytes = crate::send::read(file, MAX_CASE_BYTES).await?;
            let case = Case::from_json(&bytes)
                .with_context(|| format!("{} is not one Case in JSON", file.display()))?;
            Found { place: file.display().to_string(), case: Some(case), letter: None }
        }
        (None, name) => {
            let name = name.as_deref().unwrap_or_default();
            let wanted = Wanted::new(name, args.since.as_deref())?;
            find::find(&dead_letters::connect(config).await?, &wanted).await?
        }
    };
    let prompts = found.case.as_ref().and_then(|case| Prompts::of(case, config));
    if args.json {
        return output::line(format_args!("{:#}", as_json(&found, prompts.as_ref())));
    }
    output::line(format_args!("from {}", found.place))?;
    if let Some(letter) = &found.letter {
        output::text(&tell::letter(letter))?;
    }
    match &found.case {
        Some(case) => output::text(&tell::case(case, prompts.as_ref())),
        None => Ok(()),
    }
}

fn as_json(found: &Found, prompts: Option<&Prompts>) -> serde_json::Value {
    let letter = found.letter.as_ref().map(|Letter { id, letter, is_redriven, .. }| {
        let DeadLetter { case, .. } = letter;
        json!({ "id": id, "case": case, "dead_letter": letter, "redriven": is_redriven })
    });
    json!({
        "from": found.place,
        "dead_letter": letter,
        "questions": prompts.map(Prompts::as_json),
        "case": found.case,
    })
}
