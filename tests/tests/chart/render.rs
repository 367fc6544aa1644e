//! What the chart makes of its settings.

use anyhow::Result;
use quell_tests::Guards;
use serde_json::{Value, json};

use crate::helm::{find, objects, template};

#[tokio::test]
async fn a_typo_in_the_values_is_refused_and_named() -> Result<()> {
    for (setting, names) in [
        ("replicaCount=3", "replicaCount"),
        ("falco.tokn.key=x", "tokn"),
        ("impersonation.namespaces={Shop}", "namespaces"),
        ("ingest.service.type=Cluster", "type"),
        ("replicas=many", "replicas"),
        ("leaderElection.leaseSeconds=1", "leaseSeconds"),
        ("image.digest=latest", "digest"),
        ("guard.breakGlassGroups=[]", "breakGlassGroups"),
        ("guard.exemptNamespaces={Shop}", "exemptNamespaces"),
    ] {
        let refused = template(&["--set", setting]).await.expect_err(setting).to_string();
        assert!(
            refused.contains("values don't meet the specifications") && refused.contains(names),
            "{setting}: {refused}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn every_value_is_in_the_schema_and_says_what_it_is_for() -> Result<()> {
    let chart = crate::helm::chart();
    let text = std::fs::read_to_string(chart.join("values.yaml"))?;
    let values: Value = serde_saphyr::from_str(&text)?;
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(chart.join("values.schema.json"))?)?;
    let mut unknown = Vec::new();
    compare(&values, &schema, "", &mut unknown);
    assert_eq!(unknown, Vec::<String>::new(), "values and schema differ");
    let mut before = "";
    for line in text.lines() {
        let content = line.trim();
        let is_setting = content.contains(':') && !content.starts_with('#') && !content.starts_with('-');
        let is_group = content.ends_with(':');
        if is_setting && !is_group {
            let follows = before.starts_with('#')
                || ["requests:", "limits:", "cpu:", "memory:"].iter().any(|key| content.starts_with(key));
            assert!(follows, "a value without a comment: {line}");
        }
        before = content;
    }
    Ok(())
}

fn compare(values: &Value, schema: &Value, path: &str, unknown: &mut Vec<String>) {
    let (Some(values), Some(properties)) = (values.as_object(), schema.get("properties").and_then(Value::as_object))
    else {
        return;
    };
    for (key, value) in values {
        match properties.get(key) {
            Some(schema) => compare(value, schema, &format!("{path}.{key}"), unknown),
            None => unknown.push(format!("not in the schema: {path}.{key}")),
        }
    }
    let optional = |key: &str| path.is_empty() && key == "global" || path == ".resources" && key == "claims";
    unknown.extend(
        properties
            .keys()
            .filter(|key| !values.contains_key(*key) && !optional(key))
            .map(|key| format!("no value: {path}.{key}")),
    );
}

#[tokio::test]
async fn the_pods_meet_the_restricted_standard_and_are_two() -> Result<()> {
    let objects = objects(&template(&[]).await?)?;
    let deployment = find(&objects, "Deployment", "quell")?;
    assert_eq!(deployment["spec"]["replicas"], 2);
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(pod["terminationGracePeriodSeconds"], 30);
    assert!(pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"].is_array());
    assert_eq!(pod["topologySpreadConstraints"][0]["whenUnsatisfiable"], "ScheduleAnyway");
    let container = &pod["containers"][0];
    let security = &container["securityContext"];
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!(container["livenessProbe"]["httpGet"], json!({"path": "/healthz", "port": "metrics"}));
    assert_eq!(container["readinessProbe"]["httpGet"], json!({"path": "/readyz", "port": "metrics"}));
    find(&objects, "PodDisruptionBudget", "quell")?;
    Ok(())
}

#[tokio::test]
async fn what_is_there_already_is_used_and_nothing_is_made_in_its_place() -> Result<()> {
    let settings = "ingest.tls.existingSecret=from-cert-manager,falco.token.existingSecret=mine,falco.token.key=bearer,\
                    crds.install=false,serviceAccount.create=false,serviceAccount.name=given,rbac.create=false,rbac.aggregate=false";
    let objects = objects(&template(&["--set", settings]).await?)?;
    let kinds: Vec<&str> = objects.iter().filter_map(|one| one["kind"].as_str()).collect();
    for absent in [
        "Secret",
        "CustomResourceDefinition",
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "Role",
        "RoleBinding",
    ] {
        assert!(!kinds.contains(&absent), "{absent} in {kinds:?}");
    }
    let pod = &find(&objects, "Deployment", "quell")?["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], "given");
    assert_eq!(pod["volumes"][0]["secret"]["secretName"], "from-cert-manager");
    let source = find(&objects, "Source", "falco")?;
    assert_eq!(
        source["spec"]["webhook"]["bearerToken"],
        json!({"secret": {"name": "mine", "key": "bearer"}, "inQuery": true})
    );
    assert!(source["metadata"]["annotations"].is_null(), "an object of the release like any other");
    Ok(())
}

#[tokio::test]
async fn impersonation_is_bound_where_it_is_wanted_and_nowhere_else() -> Result<()> {
    let bindings = async |setting: &str| -> Result<Vec<(String, String)>> {
        let objects = objects(&template(&["--set-json", setting]).await?)?;
        let bound = objects.iter().filter(|one| one["roleRef"]["name"] == "quell-impersonate");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(bound.map(|one| (text(&one["kind"]), text(&one["metadata"]["namespace"]))).collect())
    };
    assert_eq!(
        bindings(r#"impersonation.namespaces=["*"]"#).await?,
        [("ClusterRoleBinding".to_owned(), String::new())]
    );
    assert_eq!(bindings("impersonation.namespaces=[]").await?, []);
    let two = ["shop", "bank"].map(|namespace| ("RoleBinding".to_owned(), namespace.to_owned()));
    assert_eq!(bindings(r#"impersonation.namespaces=["shop","bank"]"#).await?, two);
    Ok(())
}

#[tokio::test]
async fn the_guards_know_the_release_and_whom_to_let_pass() -> Result<()> {
    let guards = async |settings: &[&str]| -> Result<Vec<Value>> {
        let objects = objects(&template(settings).await?)?;
        let of_guards = |one: &Value| {
            let kind = one["kind"].as_str().unwrap_or_default();
            let name = one["metadata"]["name"].as_str().unwrap_or_default();
            kind.starts_with("ValidatingAdmissionPolicy") && !name.ends_with("-records")
        };
        Ok(objects.into_iter().filter(of_guards).collect())
    };
    assert_eq!(guards(&["--set", "guard.enabled=false"]).await?, Vec::<Value>::new());
    let settings = "guard.breakGlassGroups={sre,soc},guard.kubelets={virtual},guard.exemptNamespaces={kube-system,cni},\
                    fullnameOverride=q,serviceAccount.name=given";
    let all = guards(&["--set", settings]).await?;
    let text = serde_json::to_string(&all)?;
    for place in ["@NAME@", "@QUELL@", "@BREAK_GLASS@", "@KUBELETS@", "@EXEMPT@"] {
        assert!(!text.contains(place), "{place} is not filled in: {text}");
    }
    for part in
        [r#"[\"sre\",\"soc\"]"#, r#"[\"virtual\"]"#, r#""values":["kube-system","cni","quell"]"#, "quell:given\\\""]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let test_bed = Guards::default().objects()?;
    assert_eq!(all.len(), test_bed.0.len() + test_bed.1.len(), "the test bed has the same");
    assert!(all.iter().all(|one| one["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("q-"))));
    assert!(all.iter().all(|one| one["metadata"]["labels"]["app.kubernetes.io/name"] == "quell"));
    Ok(())
}

#[tokio::test]
async fn the_library_comes_when_it_is_asked_for_and_only_what_is_in_it() -> Result<()> {
    let playbooks = async |settings: &[&str]| -> Result<usize> {
        let objects = objects(&template(settings).await?)?;
        Ok(objects.iter().filter(|one| one["kind"] == "ClusterPlaybook").count())
    };
    assert_eq!(playbooks(&[]).await?, 0);
    assert_eq!(playbooks(&["--set", "library.enabled=true"]).await?, 4);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(crate::helm::chart().join("files/library"))? {
        names.push(entry?.file_name().to_string_lossy().trim_end_matches(".yaml").to_owned());
    }
    let all = format!("library.playbooks={}", json!(names));
    assert_eq!(playbooks(&["--set", "library.enabled=true", "--set-json", &all]).await?, names.len());
    let refused =
        template(&["--set", "library.enabled=true,library.playbooks={contain-revers-shell}"]).await.unwrap_err();
    assert!(refused.to_string().contains("there is no playbook \"contain-revers-shell\""), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_service_monitor_is_made_only_where_the_cluster_knows_the_kind() -> Result<()> {
    let wanted = ["--set", "metrics.serviceMonitor.enabled=true"];
    assert!(find(&objects(&template(&wanted).await?)?, "ServiceMonitor", "quell").is_err());
    let known = [&wanted[..], &["--api-versions", "monitoring.coreos.com/v1/ServiceMonitor"]].concat();
    find(&objects(&template(&known).await?)?, "ServiceMonitor", "quell")?;
    Ok(())
}
