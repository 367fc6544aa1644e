use super::*;

fn of(images: &[&str]) -> VexImport {
    VexImport {
        file: "-".into(),
        apply: false,
        cluster: false,
        images: images.iter().map(|one| (*one).to_owned()).collect(),
        owner: None,
        expires_at: None,
    }
}

fn openvex() -> Value {
    json!({
        "@context": "https://openvex.dev/ns/v0.2.0", "@id": "https://shop.example/vex/1", "author": "Shop Security", "version": 1,
        "statements": [
            {
                "vulnerability": { "name": "CVE-2019-20367", "aliases": ["GHSA-aaaa"] }, "status": "not_affected",
                "justification": "vulnerable_code_not_in_execute_path", "impact_statement": "nlist is never called",
                "products": [{
                    "@id": "pkg:oci/shop@sha256%3Aaa11?repository_url=registry.example%2Fshop",
                    "subcomponents": [{ "@id": "pkg:deb/debian/libbsd0@0.9.1-2?arch=amd64" }],
                }],
            },
            { "vulnerability": { "name": "CVE-2020-0001" }, "status": "fixed", "products": [{ "@id": "pkg:oci/shop?repository_url=registry.example/shop&tag=1.5" }] },
            { "vulnerability": { "name": "CVE-2020-0002" }, "status": "under_investigation", "products": [{ "@id": "pkg:oci/shop" }] },
            { "vulnerability": { "name": "CVE-2020-0003" }, "status": "affected", "products": [{ "@id": "pkg:oci/shop" }] },
            { "vulnerability": { "name": "CVE-2020-0004" }, "status": "not_affected", "products": [{ "@id": "pkg:npm/%40types/node@18.0.0" }] },
        ],
    })
}

#[test]
fn openvex_gives_what_is_not_affected_or_fixed_with_its_justification_and_says_what_it_leaves() {
    let read = read(&openvex()).unwrap();
    let told: Vec<_> = read.statements.iter().map(|one| (one.vulnerabilities[0].as_str(), one.status)).collect();
    assert_eq!(
        told,
        [
            ("CVE-2019-20367", VexStatus::NotAffected),
            ("CVE-2020-0001", VexStatus::Fixed),
            ("CVE-2020-0004", VexStatus::NotAffected)
        ]
    );
    assert_eq!(
        read.left,
        ["CVE-2020-0002: its status is under_investigation", "CVE-2020-0003: its status is affected"]
    );
    let (name, spec) = specs(&of(&[]), &read, &read.statements[0]).unwrap();
    assert!(name.starts_with("vex-cve-2019-20367-"), "{name}");
    assert_eq!(spec.r#match.vulnerabilities, ["CVE-2019-20367", "GHSA-aaaa"]);
    assert_eq!(
        (spec.r#match.images, spec.r#match.packages),
        (vec!["registry.example/shop@sha256:aa11".to_owned()], vec!["libbsd0".to_owned()])
    );
    assert_eq!((spec.owner.as_str(), spec.reason.as_str()), ("Shop Security", "nlist is never called"));
    let vex = spec.vex.unwrap();
    assert_eq!(vex.justification.as_deref(), Some("vulnerable_code_not_in_execute_path"));
    assert_eq!(vex.document, "https://shop.example/vex/1");
}

#[test]
fn a_statement_about_no_image_suppresses_nothing_unless_images_are_said() {
    let read = read(&openvex()).unwrap();
    assert!(specs(&of(&[]), &read, &read.statements[2]).unwrap_err().contains("--image"));
    let (_, spec) = specs(&of(&["registry.example/shop"]), &read, &read.statements[2]).unwrap();
    assert_eq!(
        (spec.r#match.images, spec.r#match.packages),
        (vec!["registry.example/shop".to_owned()], vec!["@types/node".to_owned()])
    );
}

#[test]
fn cyclonedx_gives_resolved_as_fixed_and_packages_of_the_image_that_it_is_about() {
    let document = json!({
        "bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": "urn:uuid:3e671687-395b-41f5-a30f-a58921a69b79",
        "metadata": { "component": { "type": "container", "name": "shop", "purl": "pkg:oci/shop@sha256%3Abb22?repository_url=registry.example/shop" } },
        "components": [{ "bom-ref": "lib", "type": "library", "name": "openssl", "purl": "pkg:deb/debian/openssl@3.0.1" }],
        "vulnerabilities": [
            { "id": "CVE-2021-1", "analysis": { "state": "not_affected", "justification": "code_not_reachable", "detail": "no TLS here" }, "affects": [{ "ref": "urn:cdx:3e671687-395b-41f5-a30f-a58921a69b79/1#lib" }] },
            { "id": "CVE-2021-2", "analysis": { "state": "resolved" }, "affects": [{ "ref": "lib" }] },
            { "id": "CVE-2021-3", "analysis": { "state": "exploitable" }, "affects": [{ "ref": "lib" }] },
            { "id": "CVE-2021-4", "analysis": { "state": "false_positive" }, "affects": [{ "ref": "lib" }] },
        ],
    });
    let read = read(&document).unwrap();
    assert_eq!(read.left, ["CVE-2021-3: its state is exploitable", "CVE-2021-4: its state is false_positive"]);
    let told: Vec<_> = read
        .statements
        .iter()
        .map(|one| (one.vulnerabilities[0].as_str(), one.status, one.justification.as_deref()))
        .collect();
    assert_eq!(
        told,
        [("CVE-2021-1", VexStatus::NotAffected, Some("code_not_reachable")), ("CVE-2021-2", VexStatus::Fixed, None)]
    );
    let (_, spec) = specs(&of(&[]), &read, &read.statements[0]).unwrap();
    assert_eq!(spec.r#match.images, ["registry.example/shop@sha256:bb22"]);
    assert_eq!((spec.r#match.packages, spec.reason.as_str()), (vec!["openssl".to_owned()], "no TLS here"));
}

#[test]
fn the_same_statement_has_the_same_name_and_what_is_no_vex_is_said() {
    let read_once = read(&openvex()).unwrap();
    let name = |read: &Read| specs(&of(&[]), read, &read.statements[0]).unwrap().0;
    assert_eq!(name(&read_once), name(&read(&openvex()).unwrap()));
    assert!(read(&json!({ "spdxVersion": "SPDX-2.3" })).unwrap_err().contains("OpenVEX"));
}
