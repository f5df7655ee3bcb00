//! Bearer tokens: made here, kept as their SHA-256 alone, and compared in constant time.

use std::fmt;

use chrono::{DateTime, Utc};
use rand::{TryRngCore as _, rngs::OsRng};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use crate::{Permission, TokenConfig};

/// What a token made here begins with, so that scanners for leaked secrets can find it.
const PREFIX: &str = "duet_";
const RANDOM_BYTES: usize = 32;
/// A shorter one can be guessed, whatever the configuration says of its digest.
const SHORTEST: usize = 32;
/// What is longer is no token, and is not worth hashing.
const LONGEST: usize = 512;

/// The operating system gives no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gives no random bytes, without which no token can be made")]
pub struct NoRandomness(#[from] rand::rand_core::OsError);

/// A token at the one moment at which it is known.
pub struct NewToken(String);

impl NewToken {
    /// 256 random bits, in words that need no quoting anywhere.
    ///
    /// # Errors
    ///
    /// Where there is no randomness to be had.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut bytes = [0; RANDOM_BYTES];
        OsRng.try_fill_bytes(&mut bytes)?;
        Ok(Self(format!("{PREFIX}{}", hex::encode(bytes))))
    }

    /// The token itself: for its client, and for nobody else.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// What the configuration knows of it.
    pub fn sha256(&self) -> String {
        hex::encode(Sha256::digest(&self.0))
    }
}

impl fmt::Debug for NewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewToken(withheld)")
    }
}

/// Why a presented token does not let anybody in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotAdmitted {
    Wrong,
    /// It was right until then.
    Expired(String),
}

/// One token that lets in.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) name: String,
    pub(crate) expires: Option<DateTime<Utc>>,
    digest: [u8; 32],
    permissions: Vec<Permission>,
}

impl Token {
    pub(crate) fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(&permission)
    }
}

/// Every token that is configured.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Vec<Token>);

impl Tokens {
    /// Those of a configuration that has been validated.
    pub(crate) fn new(configured: &[TokenConfig]) -> Self {
        let token = |one: &TokenConfig| {
            Some(Token {
                name: one.name.clone(),
                expires: one.expires.as_deref().and_then(TokenConfig::end_of),
                digest: one.digest()?,
                permissions: one.permissions.clone(),
            })
        };
        Self(configured.iter().filter_map(token).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Token> {
        self.0.iter()
    }

    /// The token's number and what is known of it. Every configured digest is compared in full, whichever is the one:
    /// how long it takes says nothing.
    pub(crate) fn find(
        &self,
        presented: &[u8],
        now: DateTime<Utc>,
    ) -> Result<(usize, &Token), NotAdmitted> {
        if !(SHORTEST..=LONGEST).contains(&presented.len()) {
            return Err(NotAdmitted::Wrong);
        }
        let digest: [u8; 32] = Sha256::digest(presented).into();
        let (mut number, mut found) = (0_u32, Choice::from(0));
        for (n, token) in (0_u32..).zip(&self.0) {
            let is_it = token.digest.ct_eq(&digest);
            number.conditional_assign(&n, is_it);
            found |= is_it;
        }
        let number = number as usize;
        let token = self.0.get(number).filter(|_| bool::from(found)).ok_or(NotAdmitted::Wrong)?;
        if token.expires.is_some_and(|end| end <= now) {
            return Err(NotAdmitted::Expired(token.name.clone()));
        }
        Ok((number, token))
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn configured(name: &str, token: &NewToken, expires: Option<&str>) -> TokenConfig {
        let permissions = vec![Permission::Send];
        TokenConfig {
            name: name.into(),
            sha256: token.sha256(),
            expires: expires.map(str::to_owned),
            permissions,
        }
    }

    #[test]
    fn each_token_is_found_and_nothing_else_is() {
        let made: Vec<_> = (0..5).map(|_| NewToken::generate().unwrap()).collect();
        let numbered = made.iter().enumerate();
        let tokens: Vec<_> =
            numbered.map(|(n, token)| configured(&format!("t{n}"), token, None)).collect();
        let tokens = Tokens::new(&tokens);
        let now = Utc::now();
        for (n, token) in made.iter().enumerate() {
            let (number, found) = tokens.find(token.secret().as_bytes(), now).unwrap();
            assert_eq!((number, found.name.as_str()), (n, format!("t{n}").as_str()));
            assert!(found.may(Permission::Send) && !found.may(Permission::Read));
            // The digest itself opens nothing: who reads the configuration has no token.
            assert_eq!(
                tokens.find(token.sha256().as_bytes(), now).unwrap_err(),
                NotAdmitted::Wrong
            );
        }
        let other = NewToken::generate().unwrap();
        let first = made[0].secret();
        let changed = format!("{}0", &first[..first.len() - 1]);
        for wrong in
            ["", "duet_", other.secret(), &first[1..], &format!("{first} "), &"x".repeat(9999)]
        {
            assert_eq!(tokens.find(wrong.as_bytes(), now).unwrap_err(), NotAdmitted::Wrong);
        }
        assert_eq!(tokens.find(changed.as_bytes(), now).is_ok(), changed == first);
    }

    #[test]
    fn a_short_secret_never_opens_even_where_its_digest_is_configured() {
        let password = "correct horse battery staple";
        let sha256 = hex::encode(Sha256::digest(password));
        let token = TokenConfig {
            name: "weak".into(),
            sha256,
            expires: None,
            permissions: vec![Permission::Read],
        };
        let found = Tokens::new(&[token]).find(password.as_bytes(), Utc::now()).map(|_| ());
        assert_eq!(found, Err(NotAdmitted::Wrong));
    }

    #[test]
    fn an_expired_token_is_told_from_a_wrong_one() {
        let token = NewToken::generate().unwrap();
        let tokens = Tokens::new(&[configured("ris", &token, Some("2027-01-31"))]);
        let end: DateTime<Utc> = "2027-02-01T00:00:00Z".parse().unwrap();
        let find = |now| tokens.find(token.secret().as_bytes(), now).map(|(number, _)| number);
        assert_eq!(find(end - TimeDelta::seconds(1)), Ok(0));
        assert_eq!(find(end), Err(NotAdmitted::Expired("ris".into())));
    }

    #[test]
    fn a_token_is_long_random_and_withheld_from_debug_output() {
        let (a, b) = (NewToken::generate().unwrap(), NewToken::generate().unwrap());
        assert_eq!(a.secret().len(), PREFIX.len() + 2 * RANDOM_BYTES);
        assert_ne!(a.secret(), b.secret());
        assert!(!format!("{a:?}").contains(&a.secret()[PREFIX.len()..]));
    }
}
