//! A host for the broker whose answers a test writes as closures.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use meshfs_broker::{
    Admission, Admitted, Authority, BoxFuture, ConnectRefused, Credentials, Identity, Incoming,
    Retention,
};

type Login = Box<dyn Fn(&Credentials<'_>) -> Result<(), ConnectRefused> + Send + Sync>;
type MayUse = Box<dyn Fn(&Identity, &str) -> bool + Send + Sync>;
type MayStay = Box<dyn Fn(&Identity) -> bool + Send + Sync>;
type Admit = Box<dyn Fn(&Incoming<'_>) -> Admitted + Send + Sync>;
type Delay = Box<dyn Fn(&str) -> Option<Duration> + Send + Sync>;
type Ready = Box<dyn Fn() -> Option<BoxFuture<'static, ()>> + Send + Sync>;

/// Authority and admission in one; says yes where the test says nothing.
pub struct House {
    pub login: Login,
    /// How long the login of a client id takes.
    pub login_delay: Delay,
    pub may_publish: MayUse,
    pub may_subscribe: MayUse,
    pub may_stay: MayStay,
    pub retention: Box<dyn Fn(&str) -> Retention + Send + Sync>,
    pub admit: Admit,
    pub ready: Ready,
}

impl Default for House {
    fn default() -> Self {
        Self {
            login: Box::new(|_| Ok(())),
            login_delay: Box::new(|_| None),
            may_publish: Box::new(|_, _| true),
            may_subscribe: Box::new(|_, _| true),
            may_stay: Box::new(|_| true),
            retention: Box::new(|_| Retention::AsPublished),
            admit: Box::new(|_| Admitted::Accepted),
            ready: Box::new(|| None),
        }
    }
}

impl fmt::Debug for House {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("House").finish_non_exhaustive()
    }
}

impl Authority for House {
    fn authenticate<'a>(
        &'a self,
        credentials: Credentials<'a>,
    ) -> BoxFuture<'a, Result<Arc<Identity>, ConnectRefused>> {
        Box::pin(async move {
            if let Some(delay) = (self.login_delay)(credentials.client_id) {
                tokio::time::sleep(delay).await;
            }
            (self.login)(&credentials)?;
            Ok(Arc::new(Identity {
                client_id: credentials.client_id.into(),
                user: credentials.user.map(Into::into),
                address: Some(credentials.address),
                note: 0,
            }))
        })
    }

    fn may_publish(&self, who: &Identity, topic: &str) -> bool {
        (self.may_publish)(who, topic)
    }

    fn may_subscribe(&self, who: &Identity, filter: &str) -> bool {
        (self.may_subscribe)(who, filter)
    }

    fn may_stay(&self, who: &Identity) -> bool {
        (self.may_stay)(who)
    }
}

impl Admission for House {
    fn retention(&self, topic: &str) -> Retention {
        (self.retention)(topic)
    }

    fn admit(&self, message: &Incoming<'_>) -> Admitted {
        (self.admit)(message)
    }

    fn ready(&self) -> Option<BoxFuture<'_, ()>> {
        (self.ready)()
    }
}
