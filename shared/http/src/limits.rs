//! How often one client may ask, in memory that is bounded whoever asks.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};

use crate::Config;

/// Clients that are told apart. Those beyond share one allowance until others are forgotten.
const CLIENTS_AT_MOST: usize = 65_536;
/// So many questions after each other, clients whose allowance is whole again are forgotten.
const TIDY_EVERY: u32 = 1024;
/// Wrong tokens from one address: so many at once, and one in [`FAILURE_EVERY`] in the long run. A right one is let in
/// all the same: else one sender with an old token would lock out every other behind the same address. That nobody
/// guesses a token is a matter of its 256 bits.
const FAILURES_AT_ONCE: u32 = 20;
const FAILURE_EVERY: Duration = Duration::from_secs(6);

/// Whom an allowance belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// The number of its token.
    Token(usize),
    /// Where there are no tokens, or none was given.
    Address(IpAddr),
    /// Everybody for whom there is no place.
    Others,
}

impl Client {
    /// A network of IPv6 counts as one client: every machine in one has 2^64 addresses.
    pub(crate) fn at(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        })
    }
}

/// The allowances of all clients.
pub(crate) struct Limits {
    requests: Allowances,
    failures: Allowances,
}

impl Limits {
    /// Those of a configuration that has been validated.
    pub(crate) fn new(config: &Config) -> Self {
        let per_second = NonZeroU32::new(config.requests_per_second).unwrap_or(NonZeroU32::MIN);
        let burst = NonZeroU32::new(config.burst).unwrap_or(NonZeroU32::MIN);
        let failures = Quota::with_period(FAILURE_EVERY).unwrap_or(Quota::per_minute(burst));
        let at_once = NonZeroU32::new(FAILURES_AT_ONCE).unwrap_or(NonZeroU32::MIN);
        Self {
            requests: Allowances::new(Quota::per_second(per_second).allow_burst(burst)),
            failures: Allowances::new(failures.allow_burst(at_once)),
        }
    }

    /// Counts a request.
    ///
    /// # Errors
    ///
    /// How long to wait, where it was one too many.
    pub(crate) fn request(&self, client: Client) -> Result<(), Duration> {
        self.requests.take(client)
    }

    /// Counts a wrong token.
    ///
    /// # Errors
    ///
    /// How long to wait, where it was one too many.
    pub(crate) fn failure(&self, client: Client) -> Result<(), Duration> {
        self.failures.take(client)
    }
}

struct Allowances {
    limiter: DefaultKeyedRateLimiter<Client>,
    clock: DefaultClock,
    asked: AtomicU32,
    is_full: AtomicBool,
}

impl Allowances {
    fn new(quota: Quota) -> Self {
        Self {
            limiter: RateLimiter::keyed(quota),
            clock: DefaultClock::default(),
            asked: AtomicU32::new(0),
            is_full: AtomicBool::new(false),
        }
    }

    fn take(&self, client: Client) -> Result<(), Duration> {
        if self.asked.fetch_add(1, Ordering::Relaxed) % TIDY_EVERY == TIDY_EVERY - 1 {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
            let is_full = self.limiter.len() >= CLIENTS_AT_MOST;
            self.is_full.store(is_full, Ordering::Relaxed);
        }
        let is_full = self.is_full.load(Ordering::Relaxed);
        let client = match client {
            Client::Address(_) if is_full => Client::Others,
            client => client,
        };
        let taken = self.limiter.check_key(&client);
        taken.map_err(|until| until.wait_time_from(self.clock.now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Client {
        Client::at(text.parse().unwrap())
    }

    #[test]
    fn each_client_has_an_allowance_of_its_own_that_comes_back() {
        let config = Config { requests_per_second: 20, burst: 3, ..Config::default() };
        let limits = Limits::new(&config);
        for client in [at("192.0.2.1"), at("192.0.2.2"), Client::Token(0)] {
            for _ in 0..3 {
                assert_eq!(limits.request(client), Ok(()), "{client:?}");
            }
            let wait = limits.request(client).unwrap_err();
            assert!(wait <= Duration::from_millis(50), "{wait:?}");
        }
        let started = std::time::Instant::now();
        while limits.request(at("192.0.2.1")).is_err() {
            assert!(started.elapsed() < Duration::from_secs(5), "it never recovers");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn addresses_of_one_network_are_one_client() {
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
    }

    #[test]
    fn memory_is_bounded_however_many_clients_there_are() {
        let allowances = Allowances::new(Quota::per_hour(NonZeroU32::MIN));
        for n in 0..150_000_u32 {
            let _any = allowances.take(Client::Address(IpAddr::V4(n.into())));
        }
        let held = allowances.limiter.len();
        assert!(held <= CLIENTS_AT_MOST + TIDY_EVERY as usize, "{held}");
        // A token's allowance is its own even then.
        assert_eq!(allowances.take(Client::Token(1)), Ok(()));
        assert!(allowances.take(Client::Address(IpAddr::V4(u32::MAX.into()))).is_err());
    }

    #[test]
    fn clients_that_are_gone_are_forgotten() {
        let allowances = Allowances::new(Quota::per_second(NonZeroU32::MAX));
        for n in 0..4 * TIDY_EVERY {
            let _any = allowances.take(Client::Address(IpAddr::V4(n.into())));
        }
        assert!(allowances.limiter.len() <= TIDY_EVERY as usize + 1);
    }
}
