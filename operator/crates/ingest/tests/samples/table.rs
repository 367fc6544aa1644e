//! What each sample gives, as its notes and a person say: how many open problems and how many that are over, how bad the worst is, and what the
//! first is about, as `kind/namespace/name`.

use quell_crds::v1alpha1::Severity;
use quell_ingest::{Signal, finding, place_without_cluster, read};

use crate::bodies::samples;

type Row = (&'static str, usize, usize, Option<(Severity, &'static str)>);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    ("alertmanager/am-executor-payload.json", 2, 0, Some((Severity::Medium, "External//localhost"))),
    ("alertmanager/dingtalk-playground.json", 2, 0, Some((Severity::Medium, "Host//server01.int"))),
    ("alertmanager/msteams-grafana-inspired.json", 3, 0, Some((Severity::Info, "External//alertmanager"))),
    ("alertmanager/msteams-prom_post_request.json", 1, 0, Some((Severity::Medium, "External//instance-with-hyphen_and_underscore"))),
    ("alertmanager/msteams-readme.json", 1, 0, Some((Severity::Medium, "Address//10.80.40.11"))),
    ("clair/clair-v2-clairctl-few_vuln.json", 1, 0, Some((Severity::Medium, "Image//default-docker-3rdparty.bahnhub.tech.rz.db.de:443/ubuntu:bionic-20190912.1"))),
    ("clair/clair_many_vul.json", 1, 0, Some((Severity::Medium, "Image//default-docker-3rdparty.bahnhub.tech.rz.db.de:443/ubuntu:bionic-20190912.1"))),
    ("clair/notification_page.json", 1, 0, Some((Severity::Info, "Image//sha256:35c102085707f703de2d9eaad8752d6fe1b8f02b5d2149f1d8357c9cc7fb7d0a"))),
    ("clair/openapi-vulnerability.json", 1, 0, Some((Severity::Low, "Package//glibc"))),
    ("clair/vulnerabilityreport-with-vulns.json", 1, 0, Some((Severity::Info, "Image//sha256:5f8d7f8c8d2babeec919b7854113bfb4c429acc929dadaff4637f6bd5268cf4d"))),
    ("clair/vulnerabilityreport_withenrichments.json", 1, 0, Some((Severity::Critical, "Image//sha256:4b42c2e36b0bedf017e14dc270f315e627a2a0030f453687a06375fa88694298"))),
    ("cloudevents/batch.json", 0, 0, None),
    ("cloudevents/harbor-scan-completed-structured.json", 0, 1, None),
    ("cloudevents/json-format-221.json", 0, 0, None),
    ("cloudevents/json-format-286.json", 0, 0, None),
    ("cloudevents/json-format-327.json", 0, 0, None),
    ("cloudevents/json-format-399.json", 0, 0, None),
    ("falco/contact-k8s-api-server.json", 1, 0, Some((Severity::Low, "Pod/openfaas-fn/falco-pod-delete-7dc9f5fbb8-gbfk7"))),
    ("falco/docs-terminal-shell-critical.json", 1, 0, Some((Severity::Critical, "Pod/default/kubecon"))),
    ("falco/event-generator-docker-11-rules.jsonl", 11, 0, Some((Severity::Critical, "Container//4e8c9ece9d33"))),
    ("falco/falcosidekick-readme-write-below-binary-dir.json", 1, 0, Some((Severity::High, "Node//localhost"))),
    ("falco/gcpaudit-1.json", 1, 0, Some((Severity::Low, "External//gcp_auditlog"))),
    ("falco/image-digest-as-array.json", 1, 0, Some((Severity::Medium, "Container//9656db3bb358"))),
    ("falco/internal-metrics-snapshot.json", 0, 0, None),
    ("falco/internal-syscall-drop-strings.json", 0, 0, None),
    ("falco/k8saudit-attach-exec-pod-eks.json", 1, 0, Some((Severity::Low, "Pod/default/kubecon"))),
    ("falco/k8saudit-cluster-secret-accessed-critical.json", 1, 0, Some((Severity::Critical, "Secret/prod/*"))),
    ("falco/k8saudit-disallowed-user-warning.jsonl", 2, 0, Some((Severity::Medium, "VolumeAttachment//csi-6afb06dce281b86b7bab718b5d966dc261b2b1554941ae449519a128cb2e3fb3"))),
    ("falco/k8saudit-serviceaccount-created-informational.json", 1, 0, Some((Severity::Info, "ServiceAccount/default/default"))),
    ("falco/terminal-shell-mysql-pretty.json", 1, 0, Some((Severity::Low, "Pod/default/alpine"))),
    ("falco/terminal-shell-null-image.json", 1, 0, Some((Severity::Low, "Pod/default/alpine"))),
    ("falcosidekick/payload-test.json", 0, 0, None),
    ("falcosidekick/webhook-terminal-shell.json", 1, 0, Some((Severity::Low, "Pod/ingress-nginx/ingress-nginx-controller-slszv"))),
    ("gatekeeper/constraint-outdated-image-bases-list.json", 4, 0, Some((Severity::Info, "Pod/kube-monitoring/kube-monitoring-prometheus-node-exporter-8944q"))),
    ("gatekeeper/constraint-required-labels-status.yaml", 4, 0, Some((Severity::High, "Namespace//default"))),
    ("gatekeeper/constraint-status-v3.6.yaml", 4, 0, Some((Severity::High, "Namespace//default"))),
    ("gatekeeper/export-violation-admission.json", 1, 0, Some((Severity::High, "Pod/default/example"))),
    ("gatekeeper/export-violation-audited.json", 1, 0, Some((Severity::High, "Pod/nginx/nginx-deployment-cd55c47f5-2b84x"))),
    ("grype/TestJsonImgsPresenter.json", 1, 0, Some((Severity::Critical, "Image//docker.io/library/user-input:latest"))),
    ("grype/check_all_fields.json", 1, 0, Some((Severity::Critical, "Image//docker.io/library/vulnerable-image:latest"))),
    ("grype/explain-keycloak.json", 1, 0, Some((Severity::Low, "Image//docker.io/keycloak/keycloak:21.0.2"))),
    ("grype/fix_available.json", 1, 0, Some((Severity::High, "Image//docker.io/library/REDACTED:latest"))),
    ("grype/fix_not_available.json", 1, 0, Some((Severity::High, "Image//docker.io/library/REDACTED:latest"))),
    ("grype/issue_9618.json", 1, 0, Some((Severity::Critical, "Image//quay.io/cloudservices/xjoin-kafka-connect-strimzi:latest"))),
    ("grype/kiem-go.json", 1, 0, Some((Severity::High, "Filesystem//."))),
    ("grype/many_vulns4.json", 1, 0, Some((Severity::Critical, "Filesystem//."))),
    ("grype/many_vulns_with_epss_values.json", 1, 0, Some((Severity::Critical, "Image//docker.io/library/busybox:1.32.1"))),
    ("guardduty/Discovery-RDS-Tor-Ip-Caller.json", 1, 0, Some((Severity::Medium, "RDSDBInstance//generatedfindingdbinstanceid"))),
    ("guardduty/Recon-EC2-PortProbeUnprotectedPort.json", 1, 0, Some((Severity::Low, "Instance//i-99999999"))),
    ("guardduty/Trojan-EC2-DGADomainRequest-B.json", 1, 0, Some((Severity::High, "Instance//i-99999999"))),
    ("guardduty/UnauthorizedAccess-EC2-MaliciousIPCaller.json", 1, 0, Some((Severity::Medium, "Instance//i-99999999"))),
    ("guardduty/eks-privileged-container-finding.json", 1, 0, Some((Severity::Medium, "Pod/argocd/privileged-pod"))),
    ("guardduty/eks-tor-ip-caller.json", 1, 0, Some((Severity::Medium, "Cluster//GeneratedFindingEKSClusterName"))),
    ("harbor/api-vulnerabilities-trivy.json", 1, 0, Some((Severity::High, "Image//sha256:711103cfce07dc03d61f51e819fad7d6fbbad20fc99caa039cc8da77e7a1c51b"))),
    ("harbor/push-artifact.json", 0, 0, None),
    ("harbor/scanning-completed-high.json", 1, 0, Some((Severity::High, "Image//harbor.xxx.xxxx.com/test/alpine/helm:3.8.1"))),
    ("harbor/scanning-completed-none.json", 0, 1, None),
    ("harbor/scanning-failed.json", 0, 0, None),
    ("hubble/drop-policy-deny-with-denied-by.json", 1, 0, Some((Severity::Low, "Pod/net-lab/traffic-generator-9b649846d-bxqfc"))),
    ("hubble/drops-exporter-docs.jsonl", 1, 0, Some((Severity::Low, "Pod/default/xwing"))),
    ("hubble/flows-10-forwarded.jsonl", 0, 0, None),
    ("hubble/flows-5-http.jsonl", 0, 0, None),
    ("inspector/aws_inspector2_many.json", 7, 1, Some((Severity::High, "Image//012345678901.dkr.ecr.us-east-1.amazonaws.com/my-awesome-docker-image:2.3.0"))),
    ("inspector/ecr-image-scan-basic-eventbridge.json", 0, 0, None),
    ("inspector/ecr-inspector2-finding-eventbridge.json", 1, 0, Some((Severity::Medium, "Image//123456789012.dkr.ecr.us-east-2.amazonaws.com/amazon/amazon-ecs-sample:latest"))),
    ("k8s-audit/anonymous_creates_namespace_foo.json", 1, 0, Some((Severity::Critical, "Namespace//foo"))),
    ("k8s-audit/attach_cluster_admin_role.json", 1, 0, Some((Severity::High, "ClusterRoleBinding//some-reader-binding"))),
    ("k8s-audit/create_cluster_role_wildcard_verbs.json", 1, 0, Some((Severity::Medium, "ClusterRole//some-reader"))),
    ("k8s-audit/create_configmap_sensitive_values.jsonl", 6, 0, Some((Severity::Medium, "ConfigMap/default/my-config"))),
    ("k8s-audit/create_kube_system_secret.json", 0, 0, None),
    ("k8s-audit/create_nginx_pod_hostnetwork.json", 1, 0, Some((Severity::Medium, "Pod/default/nginx-deployment-754c877bcd-zh5qx"))),
    ("k8s-audit/create_nginx_pod_privileged.json", 1, 0, Some((Severity::High, "Pod/default/nginx-deployment-5cdcc99dbf-rgw6z"))),
    ("k8s-audit/create_nginx_pod_sensitive_mount.json", 1, 0, Some((Severity::High, "Pod/default/nginx-deployment-7d5b5dd9cf-t8ngb"))),
    ("k8s-audit/eventlist-webhook-two-stages.jsonl", 1, 0, Some((Severity::Medium, "Pod/kube-system/webhook-audit"))),
    ("k8s-audit/exec_pod.json", 1, 0, Some((Severity::Medium, "Pod/default/nginx-deployment-7998647bdf-phvq7"))),
    ("k8s-audit/falco-docs-event.json", 1, 0, Some((Severity::Medium, "ConfigMap/default/my-config"))),
    ("k8s-events/deployment-condition-replicafailure.json", 1, 0, Some((Severity::Medium, "Pod//nginx-deployment-5f98b4db8c-2m96l"))),
    ("k8s-events/failedcreate-podsecurity.json", 1, 0, Some((Severity::Medium, "ReplicaSet/psa-restricted/restricteddeploy-6475d54f49"))),
    ("k8s-events/failedscheduling-count-3323.json", 0, 0, None),
    ("k8s-events/kyverno-policyapplied.yaml", 0, 0, None),
    ("kube-bench/adapter-kube-bench-output.json", 85, 37, Some((Severity::High, "Node//unknown"))),
    ("kube-bench/kube-bench-controls.json", 85, 37, Some((Severity::High, "Node//unknown"))),
    ("kube-bench/kube-bench-report-many-vuln-array.json", 4, 20, Some((Severity::High, "Node//unknown"))),
    ("kube-bench/kube-bench-report-one-vuln-array.json", 1, 22, Some((Severity::High, "Node//unknown"))),
    ("kube-bench/result.json", 1, 2, Some((Severity::Low, "Node//unknown"))),
    ("kube-bench/result_no_totals.json", 1, 2, Some((Severity::Low, "Node//unknown"))),
    ("kubearmor/adapter-sample-2021.json", 1, 0, Some((Severity::Medium, "Pod/multiubuntu/ubuntu-1-deployment-5d6b975744-rrkhh"))),
    ("kubearmor/alert-block-apt.json", 1, 0, Some((Severity::Low, "Pod/default/nginx-8f458dc5b-fl42t"))),
    ("kubearmor/alert-deployment-guide-2.json", 1, 0, Some((Severity::Low, "Pod/default/nginx-8f458dc5b-fl42t"))),
    ("kubearmor/hardening-fim.json", 1, 0, Some((Severity::Low, "Pod/wordpress-mysql/mysql-74775b4bf4-65nqf"))),
    ("kubearmor/hardening-network-access.json", 1, 0, Some((Severity::Medium, "Pod/wordpress-mysql/wordpress-fb448db97-wj7n7"))),
    ("kubearmor/hardening-package-tools.json", 1, 0, Some((Severity::Medium, "Pod/wordpress-mysql/mysql-74775b4bf4-65nqf"))),
    ("kubearmor/hardening-serviceaccount-token.json", 1, 0, Some((Severity::Low, "Pod/wordpress-mysql/wordpress-7c966b5d85-42jwx"))),
    ("kubearmor/host-alert-sleep-deny.json", 1, 0, Some((Severity::Medium, "Node//gke-my-first-cluster-1-default-pool-9144db50-81gb"))),
    ("kubearmor/log-visibility.json", 1, 0, Some((Severity::Low, "Pod/wordpress-mysql/wordpress-787f45786f-mm2bm"))),
    ("kubescape/configurationscansummary.yaml", 1, 0, Some((Severity::Critical, "WorkloadConfigurationScanSummary/default/workload-config-scan-1"))),
    ("kubescape/node-agent-unexpected-process.json", 1, 0, Some((Severity::Medium, "Pod/default/ping-app"))),
    ("kubescape/node-agent-unexpected-syscall.jsonl", 2, 0, Some((Severity::Low, "Pod/default/webapp-d87cdd796-tcml8"))),
    ("kubescape/results-v2.json", 0, 2, None),
    ("kubescape/results-with-a-failure.json", 1, 0, Some((Severity::Medium, "Deployment//nginx-deployment"))),
    ("kubescape/summaryDetails-mock.json", 1, 0, Some((Severity::High, "Cluster//cluster"))),
    ("kubescape/vulnerabilitymanifestsummary.yaml", 1, 0, Some((Severity::High, "Deployment/kubescape/storage"))),
    ("ocsf/compliance-finding-2003-sechub-pci.json", 1, 0, Some((Severity::Medium, "AwsAccount//AWS::::Account:111111111111"))),
    ("ocsf/detection-finding-2004-prowler-kubernetes.json", 4, 0, Some((Severity::Medium, "KubernetesAPIServer//<pod>"))),
    ("ocsf/detection-finding-2004-sechub-guardduty.json", 1, 0, Some((Severity::Low, "AwsIamAccessKey//AWS::IAM::AccessKey:ASIATMJPC7EXAMPLE"))),
    ("ocsf/security-finding-2001-falco.json", 1, 0, Some((Severity::Medium, "Node//host0.local"))),
    ("ocsf/vulnerability-finding-2002-inspector.json", 1, 0, Some((Severity::Medium, "Image//111111111111.dkr.ecr.us-east-2.amazonaws.com/browserhostingstack-EXAMPLE-btb1o54yh1jr"))),
    ("openreports/kyverno-cli-clusterreport.yaml", 1, 1, Some((Severity::Medium, "Deployment/default/bad-deployment"))),
    ("openreports/kyverno-docs-report-list.yaml", 1, 0, Some((Severity::Medium, "Pod/default/example-deployment-c94dc9f47-dfq6l"))),
    ("openreports/sample-cis-k8s.yaml", 3, 0, Some((Severity::Medium, "Cluster//cluster"))),
    ("openreports/sample-co.yaml", 2, 0, Some((Severity::Medium, "Cluster//cluster"))),
    ("openreports/sample-v1beta2-kyverno.yaml", 0, 1, None),
    ("policy-controller/denial-messages-more.yaml", 4, 0, Some((Severity::High, "Image//docker.io/library/nginx"))),
    ("policy-controller/denial-messages.yaml", 3, 0, Some((Severity::High, "Image//ghcr.io/inspektor-gadget/inspektor-gadget"))),
    ("policyreport/kyverno-1.11-policyreport.yaml", 0, 1, None),
    ("policyreport/kyverno-clusterpolicyreport-exceptions.yaml", 0, 2, None),
    ("policyreport/kyverno-docs-policyreport.yaml", 1, 1, Some((Severity::Medium, "Pod/kube-system/kube-apiserver-kind-control-plane"))),
    ("policyreport/reports-server-report-1.yaml", 0, 2, None),
    ("policyreport/sample-cis-k8s.yaml", 3, 0, Some((Severity::Medium, "Cluster//cluster"))),
    ("policyreport/sample-co.yaml", 2, 0, Some((Severity::Medium, "Cluster//cluster"))),
    ("policyreport/sample-v1beta1-kyverno.yaml", 0, 1, None),
    ("policyreport/sample-v1beta2-kyverno.yaml", 0, 1, None),
    ("policyreport/trivy-adapter-policyreport.yaml", 1, 0, Some((Severity::High, "Pod/default/zipkin-6b59cc5ddb-bp9h8"))),
    ("sarif/default-rule-configuration.sarif", 2, 0, Some((Severity::High, "File//file:///C:/code/myProject/io/kb.c"))),
    ("sarif/dockle.sarif", 4, 0, Some((Severity::High, "Artifact//unknown"))),
    ("sarif/gitleaks.sarif", 8, 0, Some((Severity::Medium, "File//dojo/unittests/scans/gitlab_secret_detection_report/gitlab_secret_detection_report_1_vuln.json"))),
    ("sarif/grype-cxf-3.4.6.sarif", 1, 0, Some((Severity::Critical, "Artifact//unknown"))),
    ("sarif/grype-image.sarif", 1, 0, Some((Severity::High, "Image//docker.io/library/user-input:latest"))),
    ("sarif/spec-appendix-k4.sarif", 0, 0, None),
    ("sarif/suppressions.sarif", 4, 0, Some((Severity::Medium, "Artifact//unknown"))),
    ("sarif/trivy-alpine-310.sarif", 1, 0, Some((Severity::Medium, "Image//testdata/fixtures/images/alpine-310.tar.gz"))),
    ("tencent-cwp/api-DescribeBashEventsNew.json", 1, 0, Some((Severity::High, "Address//192.168.111.28"))),
    ("tencent-cwp/api-DescribeMalwareInfo.json", 1, 0, Some((Severity::Low, "Address//172.16.20.1"))),
    ("tencent-cwp/api-DescribePrivilegeEvents.json", 1, 0, Some((Severity::High, "Host//ins-1002"))),
    ("tencent-cwp/api-DescribeReverseShellEvents.json", 1, 0, Some((Severity::High, "Address//1.1.1.1"))),
    ("tencent-cwp/api-DescribeVulList.json", 1, 0, Some((Severity::High, "External//hosts"))),
    ("tencent-cwp/robot-abnormal-login.json", 1, 0, Some((Severity::High, "Host//unknown"))),
    ("tencent-cwp/robot-high-risk-command.json", 1, 0, Some((Severity::High, "Host//unknown"))),
    ("tencent-cwp/robot-malicious-file.json", 1, 0, Some((Severity::Critical, "Host//unknown"))),
    ("tencent-cwp/robot-password-cracking.json", 1, 0, Some((Severity::Medium, "Host//unknown"))),
    ("tencent-cwp/robot-public-fields.json", 0, 0, None),
    ("tencent-tcr/DescribeWebhookTriggerLog.json", 0, 0, None),
    ("tencent-tcr/webhook-push-image.json", 0, 0, None),
    ("tencent-tcss/DescribeAbnormalProcessEvents.json", 1, 0, Some((Severity::Medium, "Container//2dc265571ad6"))),
    ("tencent-tcss/DescribeAssetImageVulList.json", 1, 0, Some((Severity::High, "Artifact//unknown"))),
    ("tencent-tcss/DescribeEscapeEventDetail.json", 1, 0, Some((Severity::High, "Pod/kube-system/cilium-m2gkw"))),
    ("tencent-tcss/DescribeK8sApiAbnormalEventList.json", 1, 0, Some((Severity::High, "Cluster//clsfoo***"))),
    ("tencent-tcss/DescribeReverseShellEvents.json", 2, 0, Some((Severity::High, "Container//b49a9fd917d3"))),
    ("tencent-tcss/DescribeRiskSyscallEvents.json", 1, 0, Some((Severity::Medium, "Container//81abdbc1427b"))),
    ("tencent-tcss/DescribeVirusDetail.json", 1, 0, Some((Severity::Critical, "Node//hostname"))),
    ("tetragon/events.jsonl", 0, 0, None),
    ("tetragon/exec-docs-xwing.json", 0, 0, None),
    ("tetragon/golden-process_exec.json", 0, 0, None),
    ("tetragon/golden-process_kprobe.json", 0, 0, None),
    ("tetragon/host-namespace-bash-exec.json", 0, 0, None),
    ("tetragon/kprobe-file-monitoring-policy.json", 1, 0, Some((Severity::Medium, "Pod/default/file-access"))),
    ("tetragon/kprobe-kernel-module-host.json", 0, 0, None),
    ("tetragon/merlin-agent-insert-pod-spec-exec.json", 0, 0, None),
    ("tetragon/privileged-pod-bash-exec.json", 0, 0, None),
    ("tetragon/privileged-pod-nsenter-exec.json", 0, 0, None),
    ("trivy/all_statuses.json", 1, 0, Some((Severity::Low, "Image//docker.io/noppaknopsta/example-app:main-159"))),
    ("trivy/alpine-39-skip.json", 0, 0, None),
    ("trivy/alpine-39.json", 1, 0, Some((Severity::Critical, "Image//ghcr.io/aquasecurity/trivy-test-images:alpine-39"))),
    ("trivy/centos-7.json", 1, 0, Some((Severity::Medium, "Image//ghcr.io/aquasecurity/trivy-test-images:centos-7"))),
    ("trivy/debian-stretch.json", 1, 0, Some((Severity::Medium, "Image//ghcr.io/aquasecurity/trivy-test-images:debian-stretch"))),
    ("trivy/distroless-base.json", 1, 0, Some((Severity::Medium, "Image//ghcr.io/aquasecurity/trivy-test-images:distroless-base"))),
    ("trivy/dockerfile.json", 1, 0, Some((Severity::High, "Repository//testdata/fixtures/repo/dockerfile"))),
    ("trivy/fluentd-gems.json", 1, 0, Some((Severity::Critical, "Image//ghcr.io/aquasecurity/trivy-test-images:fluentd-multiple-lockfiles"))),
    ("trivy/helm_testchart.json", 1, 0, Some((Severity::High, "Repository//testdata/fixtures/repo/helm_testchart"))),
    ("trivy/image-many-vulns-issue_9333.json", 1, 0, Some((Severity::Medium, "Image//docker.io/noppaknopsta/example-app:main-159"))),
    ("trivy/k-client-filesystem.json", 1, 0, Some((Severity::Critical, "Filesystem//."))),
    ("trivy/k8s-cluster-report-old-shape.json", 4, 2, Some((Severity::Medium, "Deployment/default/redis-follower"))),
    ("trivy/k8s-cluster-report-resources-shape.json", 13, 0, Some((Severity::High, "Service/default/kubernetes"))),
    ("trivy/k8s-empty-cluster-name.json", 13, 0, Some((Severity::High, "Service/default/kubernetes"))),
    ("trivy/k8s-findings-summary-part1.json", 24, 72, Some((Severity::Critical, "ClusterRole//system:controller:namespace-controller"))),
    ("trivy/legacy_many_vulns_array.json", 1, 0, Some((Severity::High, "Image//docker.io/library/debian:latest"))),
    ("trivy/photon-30.json", 1, 0, Some((Severity::Critical, "Image//ghcr.io/aquasecurity/trivy-test-images:photon-30"))),
    ("trivy/scheme_2_many_vulns.json", 1, 0, Some((Severity::Critical, "Image//docker.io/library/teamdojo:latest"))),
    ("trivy/secrets.json", 1, 0, Some((Severity::Critical, "Repository//testdata/fixtures/repo/secrets"))),
    ("trivy/spring4shell-jre11.json", 1, 0, Some((Severity::Critical, "Image//ghcr.io/aquasecurity/trivy-test-images:spring4shell-jre11"))),
    ("trivy/ubuntu-1804.json", 1, 0, Some((Severity::Medium, "Image//ghcr.io/aquasecurity/trivy-test-images:ubuntu-1804"))),
    ("trivy-operator/all_reports_in_dict.json", 3, 0, Some((Severity::Critical, "ReplicaSet/default/nginx-deployment-965685897"))),
    ("trivy-operator/clustercompliancereport-summary-docs.yaml", 12, 11, Some((Severity::Critical, "Cluster//cluster"))),
    ("trivy-operator/compliance_severity.json", 1, 0, Some((Severity::High, "Cluster//cluster"))),
    ("trivy-operator/configauditreport-docs.yaml", 1, 0, Some((Severity::Critical, "ReplicaSet/default/nginx-6d4cf56db6"))),
    ("trivy-operator/configauditreport_many.json", 1, 0, Some((Severity::Medium, "ReplicaSet/default/nginx-deployment-965685897"))),
    ("trivy-operator/exposedsecretreport-docs.yaml", 1, 0, Some((Severity::High, "ReplicaSet/default/app-67b77f5965"))),
    ("trivy-operator/exposedsecretreport_many.json", 1, 0, Some((Severity::Critical, "ReplicaSet/default/nginx-deployment-c868466d4"))),
    ("trivy-operator/exposedsecretreport_single_vuln.json", 1, 0, Some((Severity::Critical, "ReplicaSet/default/nginx-deployment-c868466d4"))),
    ("trivy-operator/findings_in_list.json", 2, 0, Some((Severity::Medium, "ReplicaSet/default/nginx-deployment-965685897"))),
    ("trivy-operator/infraassessmentreport-docs.yaml", 1, 0, Some((Severity::Medium, "Pod/kube-system/kube-apiserver-minikube"))),
    ("trivy-operator/rbacassessmentreport-docs.yaml", 1, 0, Some((Severity::Critical, "Role/default/system:controller:token-cleaner"))),
    ("trivy-operator/replicaset-configauditreport-expected.yaml", 1, 0, Some((Severity::High, "ReplicaSet/default/wordpress-84bbf6f4dd"))),
    ("trivy-operator/vulnerabilityreport-docs.yaml", 1, 0, Some((Severity::Critical, "ReplicaSet/default/nginx-6d4cf56db6"))),
    ("trivy-operator/vulnerabilityreport_many.json", 1, 0, Some((Severity::Critical, "ReplicaSet/default/nginx-deployment-965685897"))),
    ("trivy-operator/vulnerabilityreport_no_vuln.json", 0, 1, None),
    ("trivy-operator/vulnerabilityreport_single_vuln.json", 1, 0, Some((Severity::Critical, "ReplicaSet/default/nginx-deployment-965685897"))),
];

#[test]
fn each_sample_gives_the_findings_that_its_notes_say() {
    let mut wrong = Vec::new();
    for sample in samples() {
        let Some((_, open, over, worst)) = TABLE.iter().find(|(name, ..)| *name == sample.name) else {
            panic!("{} is not in the table", sample.name);
        };
        let signals: Vec<Signal> = sample
            .bodies
            .iter()
            .flat_map(|body| read(sample.format, body).unwrap_or_else(|error| panic!("{}: {error}", sample.name)))
            .collect();
        let problems: Vec<_> = signals.iter().filter(|signal| !signal.resolved).collect();
        let target = |signal: &Signal| {
            let target = finding("source", signal, &place_without_cluster(signal), "quell").spec.target;
            format!("{}/{}/{}", target.kind, target.namespace, target.name)
        };
        let found =
            problems.iter().map(|signal| signal.severity).max().zip(problems.first().map(|signal| target(signal)));
        let counts = (problems.len(), signals.len() - problems.len());
        if counts != (*open, *over) || found != worst.map(|(severity, target)| (severity, target.to_owned())) {
            wrong.push(format!("{}: {counts:?} {found:?}", sample.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn vulnerabilities_are_as_many_as_a_person_counted() {
    for (name, [critical, high, medium, low, info, fixable]) in [
        ("trivy/alpine-39.json", [2, 0, 4, 0, 0, 6]),
        ("trivy/image-many-vulns-issue_9333.json", [0, 0, 1, 12, 0, 1]),
        ("trivy/legacy_many_vulns_array.json", [0, 18, 9, 65, 1, 0]),
        ("trivy/k-client-filesystem.json", [1, 5, 17, 1, 0, 23]),
        ("trivy-operator/vulnerabilityreport_many.json", [2, 3, 25, 11, 0, 39]),
        ("trivy-operator/vulnerabilityreport_single_vuln.json", [1, 0, 0, 0, 0, 1]),
        ("grype/many_vulns_with_epss_values.json", [1, 10, 2, 2, 0, 1]),
        ("clair/clair_many_vul.json", [0, 0, 9, 15, 11, 3]),
        ("harbor/scanning-completed-high.json", [0, 4, 0, 0, 1, 5]),
    ] {
        let Some(sample) = samples().into_iter().find(|sample| sample.name == name) else { return };
        let counts = read(sample.format, &sample.bodies[0]).unwrap()[0].vulnerability_counts.unwrap();
        let found = [counts.critical, counts.high, counts.medium, counts.low, counts.info, counts.fixable];
        assert_eq!(found, [critical, high, medium, low, info, fixable], "{name}");
    }
}

/// Above 2^53, a number that went through a float is another.
#[test]
fn large_numbers_keep_their_value() {
    let number = 1_743_520_331_502_730_963_u64;
    let body = format!(r#"{{"rule":"r","priority":"Error","output":"o","output_fields":{{"evt.time":{number}}}}}"#);
    let signal = read(quell_crds::v1alpha1::Format::Falco, body.as_bytes()).unwrap().remove(0);
    assert_eq!(signal.details["output_fields"]["evt.time"], number);
    assert_eq!(signal.detected_at.unwrap().timestamp_nanos_opt(), Some(1_743_520_331_502_730_963));
}
