//! Flux's controller puts `finalizers.fluxcd.io` on Providers, and earlier ones did so on Alerts.
//! Whoever replaces it has to take it off, or such objects could never be deleted.

use serde_json::{Value, json};

use super::support::app::DEADLINE;
use super::support::flux::{alert, provider, secret};
use super::support::wait;
use super::{Space, forge, repository, value_of};

const OLD: &str = "finalizers.fluxcd.io";
const OTHER: &str = "example.org/keep";

impl Space<'_> {
    async fn gone(&self, kind: &str, name: &str) {
        wait::until(DEADLINE, &format!("{kind} {name} to be gone"), || async {
            let object = self.objects(kind).get_opt(name).await.expect("the API server answers");
            object.is_none().then_some(())
        })
        .await;
    }

    async fn finalize(&self, kind: &str, name: &str, finalizers: &[&str]) {
        self.merge(kind, name, json!({"metadata": {"finalizers": finalizers}})).await;
    }
}

async fn pair(space: &Space<'_>, name: &str, address: &str) {
    space.apply(&provider("github", name, address).secret("token")).await;
    space.apply(&alert(name, name)).await;
}

#[tokio::test]
async fn the_old_finalizer_is_taken_off_what_is_deleted_and_nothing_else() {
    let space = Space::new("finalizers").await;
    let forge = forge().await;
    space.apply(&secret("token", "token", "t0k")).await;
    for name in ["plain", "both", "kept"] {
        pair(&space, name, &repository(&forge)).await;
    }
    for kind in ["Alert", "Provider"] {
        space.finalize(kind, "plain", &[OLD]).await;
        space.finalize(kind, "both", &[OTHER, OLD]).await;
        space.finalize(kind, "kept", &[OLD]).await;
    }
    // Deleted while nobody was there to see it.
    space.delete("Alert", "plain").await;
    space.delete("Provider", "plain").await;
    let herald = space.herald().await;
    space.gone("Alert", "plain").await;
    space.gone("Provider", "plain").await;

    // Deleted while Herald looks on, with somebody else's finalizer that has to stay.
    for kind in ["Alert", "Provider"] {
        space.delete(kind, "both").await;
        let left = wait::until(DEADLINE, "the old finalizer to go", || async {
            let finalizers = space.get(kind, "both").await["metadata"]["finalizers"].take();
            (!finalizers.as_array()?.contains(&OLD.into())).then_some(finalizers)
        })
        .await;
        assert_eq!(left, json!([OTHER]), "{kind}");
        space.finalize(kind, "both", &[]).await;
        space.gone(kind, "both").await;
    }

    // What is not deleted keeps what it has.
    for kind in ["Alert", "Provider"] {
        space.in_order(kind, "kept").await;
        assert_eq!(space.get(kind, "kept").await["metadata"]["finalizers"], json!([OLD]), "{kind}");
    }
    herald.stop().await;
}

#[tokio::test]
async fn an_object_that_cannot_work_can_be_deleted_as_well() {
    let space = Space::new("finalizers").await;
    space.apply(&provider("slack", "p", "https://hooks.example.org").secret("missing")).await;
    space.apply(&alert("a", "p").spec("inclusionList", json!(["(unclosed"]))).await;
    space.finalize("Alert", "a", &[OLD]).await;
    space.finalize("Provider", "p", &[OLD]).await;
    let herald = space.herald().await;
    space.delete("Alert", "a").await;
    space.delete("Provider", "p").await;
    space.gone("Alert", "a").await;
    space.gone("Provider", "p").await;
    herald.stop().await;
}

#[tokio::test]
async fn herald_adds_none_of_its_own() {
    let space = Space::new("finalizers").await;
    let forge = forge().await;
    space.apply(&secret("token", "token", "t0k")).await;
    pair(&space, "new", &repository(&forge)).await;
    let herald = space.herald().await;
    for kind in ["Alert", "Provider"] {
        space.in_order(kind, "new").await;
        assert_eq!(space.get(kind, "new").await["metadata"]["finalizers"], Value::Null, "{kind}");
    }
    herald.stop().await;
    // So what is deleted is gone at once, with nobody there.
    for kind in ["Alert", "Provider"] {
        let deleted = space.objects(kind).get("new").await.expect("it is there");
        assert!(value_of(&deleted)["metadata"]["deletionTimestamp"].is_null());
        space.delete(kind, "new").await;
        assert!(space.objects(kind).get_opt("new").await.expect("the API server answers").is_none(), "{kind}");
    }
}
