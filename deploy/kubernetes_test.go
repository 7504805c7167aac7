package deploy_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	yamlutil "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// decoder knows the kinds of the API that are used here, and refuses a field that they
// do not have, or that is there twice.
var decoder = func() runtime.Decoder {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, autoscalingv2.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}()

// manifests are the files of a folder, decoded.
type manifests struct {
	objects      []metav1.Object
	pods         map[string]*corev1.PodTemplateSpec // by the name of their workload
	deployments  map[string]*appsv1.Deployment
	services     map[string]*corev1.Service
	secrets      map[string]*corev1.Secret
	configs      map[string]*corev1.ConfigMap
	policies     map[string]*networkingv1.NetworkPolicy
	ingresses    []*networkingv1.Ingress
	autoscalers  []*autoscalingv2.HorizontalPodAutoscaler
	disruptions  []*policyv1.PodDisruptionBudget
	namespaces   map[string]*corev1.Namespace
	found        []string // what is wrong
	kustomizable struct {
		metav1.TypeMeta `json:",inline"`
		Namespace       string `json:"namespace"`
		Images          []struct {
			Name   string `json:"name"`
			NewTag string `json:"newTag"`
		} `json:"images"`
		Resources []string `json:"resources"`
	}
}

func (m *manifests) wrong(format string, args ...any) {
	m.found = append(m.found, fmt.Sprintf(format, args...))
}

// decode reads the files, which are given by name, and notes what the API would refuse.
func decode(files map[string]string) *manifests {
	m := &manifests{
		pods:        make(map[string]*corev1.PodTemplateSpec),
		deployments: make(map[string]*appsv1.Deployment),
		services:    make(map[string]*corev1.Service),
		secrets:     make(map[string]*corev1.Secret),
		configs:     make(map[string]*corev1.ConfigMap),
		policies:    make(map[string]*networkingv1.NetworkPolicy),
		namespaces:  make(map[string]*corev1.Namespace),
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if name == "kustomization.yaml" {
			if err := yaml.UnmarshalStrict([]byte(files[name]), &m.kustomizable); err != nil {
				m.wrong("%s: %v", name, err)
			}
			continue
		}
		documents := yamlutil.NewYAMLReader(bufio.NewReader(strings.NewReader(files[name])))
		for {
			document, err := documents.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				m.wrong("%s: %v", name, err)
				break
			}
			object, _, err := decoder.Decode(document, nil, nil)
			if err != nil {
				m.wrong("%s: %v", name, err)
				continue
			}
			m.add(object)
		}
	}
	return m
}

func (m *manifests) add(object runtime.Object) {
	switch o := object.(type) {
	case *appsv1.Deployment:
		m.deployments[o.Name] = o
		m.workload(o.Name, o.Spec.Selector, &o.Spec.Template)
	case *appsv1.StatefulSet:
		m.workload(o.Name, o.Spec.Selector, &o.Spec.Template)
		for _, claim := range o.Spec.VolumeClaimTemplates {
			o.Spec.Template.Spec.Volumes = append(o.Spec.Template.Spec.Volumes, corev1.Volume{Name: claim.Name})
		}
	case *corev1.Service:
		m.services[o.Name] = o
	case *corev1.Secret:
		m.secrets[o.Name] = o
	case *corev1.ConfigMap:
		m.configs[o.Name] = o
	case *corev1.Namespace:
		m.namespaces[o.Name] = o
	case *networkingv1.NetworkPolicy:
		m.policies[o.Name] = o
	case *networkingv1.Ingress:
		m.ingresses = append(m.ingresses, o)
	case *autoscalingv2.HorizontalPodAutoscaler:
		m.autoscalers = append(m.autoscalers, o)
	case *policyv1.PodDisruptionBudget:
		m.disruptions = append(m.disruptions, o)
	default:
		m.wrong("nothing is known of the kind of %T", o)
	}
	if o, ok := object.(metav1.Object); ok {
		m.objects = append(m.objects, o)
	}
}

func (m *manifests) workload(name string, selector *metav1.LabelSelector, template *corev1.PodTemplateSpec) {
	m.pods[name] = template
	if !m.selects(name, selector, template.Labels) {
		m.wrong("%s does not select its own pods", name)
	}
}

// selects reports whether a selector matches labels. One that selects all must be wanted.
func (m *manifests) selects(who string, selector *metav1.LabelSelector, of map[string]string) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		m.wrong("%s: %v", who, err)
		return false
	}
	return s.Matches(labels.Set(of))
}

// selected returns the workloads whose pods a selector selects.
func (m *manifests) selected(who string, selector *metav1.LabelSelector) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(m.pods)) {
		if m.selects(who, selector, m.pods[name].Labels) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		m.wrong("%s selects no pod", who)
	}
	return names
}

// problems returns what is wrong with files of manifests.
func problems(files map[string]string) []string {
	m := decode(files)
	m.names(files)
	for _, name := range slices.Sorted(maps.Keys(m.pods)) {
		m.pod(name, &m.pods[name].Spec)
	}
	m.routes()
	m.scaling()
	m.drain()
	m.firewall()
	m.storeURL()
	m.forks()
	return m.found
}

func (m *manifests) names(files map[string]string) {
	for _, o := range m.objects {
		for _, why := range validation.IsDNS1123Label(o.GetName()) {
			m.wrong("name %q: %s", o.GetName(), why)
		}
		for key, value := range o.GetLabels() {
			for _, why := range slices.Concat(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)) {
				m.wrong("label of %s: %s", o.GetName(), why)
			}
		}
		if o.GetNamespace() != "" {
			m.wrong("%s names its namespace, which is the kustomization's to say", o.GetName())
		}
	}
	k := m.kustomizable
	namespace, ok := m.namespaces[k.Namespace]
	if !ok || namespace.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
		m.wrong("there is no namespace %q that enforces the restricted profile", k.Namespace)
	}
	resources := slices.Clone(k.Resources)
	slices.Sort(resources)
	var there []string
	for name := range files {
		// To apply an example would write over the secrets that are there.
		if name != "kustomization.yaml" && !strings.HasSuffix(name, ".example.yaml") {
			there = append(there, name)
		}
	}
	slices.Sort(there)
	if !slices.Equal(resources, there) {
		m.wrong("the kustomization has %v, the folder %v", resources, there)
	}
	for name, text := range files {
		if strings.Contains(text, "kind: Secret\n") && slices.Contains(resources, name) {
			m.wrong("each apply writes over the secrets that are there with those of %s", name)
		}
	}
	for _, image := range k.Images {
		used := false
		for _, pod := range m.pods {
			used = used || slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool { return c.Image == image.Name })
		}
		if !used {
			m.wrong("the kustomization sets the tag of %s, which no container runs", image.Name)
		}
	}
}

// pod looks at what a pod refers to, and whether the restricted profile allows it.
func (m *manifests) pod(name string, spec *corev1.PodSpec) {
	volumes := make(map[string]bool)
	for _, v := range spec.Volumes {
		volumes[v.Name] = true
		if s := v.Secret; s != nil && m.secrets[s.SecretName] == nil {
			m.wrong("%s mounts the Secret %s, which is not there", name, s.SecretName)
		}
		if c := v.ConfigMap; c != nil && m.configs[c.Name] == nil {
			m.wrong("%s mounts the ConfigMap %s, which is not there", name, c.Name)
		}
	}
	if yes(spec.AutomountServiceAccountToken) || spec.AutomountServiceAccountToken == nil {
		m.wrong("%s has a token for the API that it does not need", name)
	}
	p := spec.SecurityContext
	if p == nil || !yes(p.RunAsNonRoot) || p.RunAsUser == nil || *p.RunAsUser == 0 ||
		p.SeccompProfile == nil || p.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		m.wrong("%s: the pod may be root, or make any system call", name)
	}
	for _, c := range spec.Containers {
		who := name + "/" + c.Name
		if c.Name == "" || c.Image == "" {
			m.wrong("%s: a container has no name or image", who)
		}
		s := c.SecurityContext
		if s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || !yes(s.ReadOnlyRootFilesystem) ||
			s.Capabilities == nil || !slices.Contains(s.Capabilities.Drop, "ALL") || len(s.Capabilities.Add) > 0 {
			m.wrong("%s may do more than it needs", who)
		}
		if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() {
			m.wrong("%s says not what it takes", who)
		}
		for _, mount := range c.VolumeMounts {
			if !volumes[mount.Name] {
				m.wrong("%s mounts %s, which is no volume of the pod", who, mount.Name)
			}
		}
		for _, e := range c.Env {
			if e.ValueFrom == nil || e.ValueFrom.SecretKeyRef == nil {
				continue
			}
			ref := e.ValueFrom.SecretKeyRef
			if secret := m.secrets[ref.Name]; secret == nil || secret.StringData[ref.Key] == "" {
				m.wrong("%s: %s is the key %s of the Secret %s, which is not there", who, e.Name, ref.Key, ref.Name)
			}
		}
		for _, arg := range c.Args {
			if _, after, ok := strings.Cut(arg, "$("); ok {
				variable, _, _ := strings.Cut(after, ")")
				if !slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == variable }) {
					m.wrong("%s: %s is no variable of the container", who, variable)
				}
			}
		}
		for kind, probe := range map[string]*corev1.Probe{"startup": c.StartupProbe, "readiness": c.ReadinessProbe, "liveness": c.LivenessProbe} {
			switch {
			case probe == nil:
			case probe.HTTPGet != nil:
				m.hasPort(who+"'s "+kind+" probe", spec, probe.HTTPGet.Port)
			case probe.TCPSocket != nil:
				m.hasPort(who+"'s "+kind+" probe", spec, probe.TCPSocket.Port)
			default:
				m.wrong("%s's %s probe asks nothing", who, kind)
			}
		}
	}
}

func yes(b *bool) bool { return b != nil && *b }

func (m *manifests) hasPort(who string, spec *corev1.PodSpec, port intstr.IntOrString) {
	for _, c := range spec.Containers {
		for _, p := range c.Ports {
			if port == intstr.FromString(p.Name) || port == intstr.FromInt32(p.ContainerPort) {
				return
			}
		}
	}
	m.wrong("%s is about the port %s, which the pod does not have", who, port.String())
}

// routes follows requests: from Ingress to Service to pods.
func (m *manifests) routes() {
	for _, s := range m.services {
		who := "Service " + s.Name
		for _, pod := range m.selected(who, &metav1.LabelSelector{MatchLabels: s.Spec.Selector}) {
			for _, p := range s.Spec.Ports {
				m.hasPort(who, &m.pods[pod].Spec, p.TargetPort)
			}
		}
		if s.Spec.SessionAffinity != "" && s.Spec.SessionAffinity != corev1.ServiceAffinityNone {
			m.wrong("%s brings visitors back to one server: any can answer them", who)
		}
	}
	for _, in := range m.ingresses {
		for _, t := range in.Spec.TLS {
			if s := m.secrets[t.SecretName]; s == nil || s.Type != corev1.SecretTypeTLS || s.StringData["tls.crt"] == "" || s.StringData["tls.key"] == "" {
				m.wrong("Ingress %s has no certificate %s", in.Name, t.SecretName)
			}
		}
		for _, rule := range in.Spec.Rules {
			if !slices.ContainsFunc(in.Spec.TLS, func(t networkingv1.IngressTLS) bool { return slices.Contains(t.Hosts, rule.Host) }) {
				m.wrong("Ingress %s serves %s without TLS", in.Name, rule.Host)
			}
			for _, p := range rule.HTTP.Paths {
				to := p.Backend.Service
				if to == nil || m.services[to.Name] == nil {
					m.wrong("Ingress %s leads to no Service", in.Name)
					continue
				}
				if !slices.ContainsFunc(m.services[to.Name].Spec.Ports, func(p corev1.ServicePort) bool {
					return p.Name == to.Port.Name || to.Port.Number == p.Port
				}) {
					m.wrong("Ingress %s leads to a port that Service %s does not have", in.Name, to.Name)
				}
			}
		}
	}
}

func (m *manifests) scaling() {
	if len(m.autoscalers) == 0 || len(m.disruptions) == 0 {
		m.wrong("no HorizontalPodAutoscaler, or no PodDisruptionBudget")
	}
	least := int32(0)
	for _, h := range m.autoscalers {
		ref := h.Spec.ScaleTargetRef
		d := m.deployments[ref.Name]
		if d == nil || ref.Kind != "Deployment" || ref.APIVersion != appsv1.SchemeGroupVersion.String() {
			m.wrong("the autoscaler's target is %s %s %s, which is not there", ref.APIVersion, ref.Kind, ref.Name)
		} else if d.Spec.Replicas != nil {
			m.wrong("Deployment %s says how many servers there are: each apply would undo the autoscaler's work", d.Name)
		}
		if h.Spec.MinReplicas == nil || *h.Spec.MinReplicas < 2 || *h.Spec.MinReplicas > h.Spec.MaxReplicas {
			m.wrong("the autoscaler keeps from %v to %d servers", h.Spec.MinReplicas, h.Spec.MaxReplicas)
		} else {
			least = *h.Spec.MinReplicas
		}
		for _, metric := range h.Spec.Metrics {
			if metric.Type != autoscalingv2.PodsMetricSourceType || metric.Pods == nil || metric.Pods.Metric.Name == "" ||
				metric.Pods.Target.Type != autoscalingv2.AverageValueMetricType || metric.Pods.Target.AverageValue == nil || metric.Pods.Target.AverageValue.Sign() <= 0 {
				m.wrong("the autoscaler's metric is not one of pods with an average to keep")
			}
		}
		if d != nil {
			m.scraped(d)
		}
		if len(h.Spec.Metrics) == 0 {
			m.wrong("the autoscaler looks at nothing")
		}
	}
	for _, b := range m.disruptions {
		m.selected("PodDisruptionBudget "+b.Name, b.Spec.Selector)
		if b.Spec.MaxUnavailable == nil || b.Spec.MaxUnavailable.IntValue() < 1 || b.Spec.MaxUnavailable.IntValue() >= int(least) {
			m.wrong("PodDisruptionBudget %s lets no node be emptied, or too many servers go", b.Name)
		}
	}
}

// scraped looks whether a server serves metrics at a port that a policy opens.
func (m *manifests) scraped(d *appsv1.Deployment) {
	spec := &d.Spec.Template.Spec
	c := spec.Containers[0]
	i := slices.IndexFunc(c.Args, func(a string) bool { return strings.HasPrefix(a, "--metrics=0.0.0.0:") })
	j := slices.IndexFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == "metrics" })
	if i < 0 || j < 0 || c.Args[i] != fmt.Sprintf("--metrics=0.0.0.0:%d", c.Ports[j].ContainerPort) ||
		d.Spec.Template.Annotations["prometheus.io/port"] != fmt.Sprint(c.Ports[j].ContainerPort) {
		m.wrong("%s serves no metrics at its port for them, by which the autoscaler decides", d.Name)
	}
	for _, p := range m.policies {
		for _, in := range p.Spec.Ingress {
			if m.selects(p.Name, &p.Spec.PodSelector, d.Spec.Template.Labels) && slices.ContainsFunc(in.Ports, func(p networkingv1.NetworkPolicyPort) bool {
				return *p.Port == intstr.FromString("metrics")
			}) {
				return
			}
		}
	}
	m.wrong("no NetworkPolicy lets Prometheus reach the metrics of %s", d.Name)
}

// drain adds up what the end of a server may take.
func (m *manifests) drain() {
	for name, d := range m.deployments {
		spec := d.Spec.Template.Spec
		for _, t := range spec.TopologySpreadConstraints {
			if !m.selects(name, t.LabelSelector, d.Spec.Template.Labels) {
				m.wrong("%s spreads other pods than its own", name)
			}
		}
		if r := d.Spec.Strategy.RollingUpdate; r == nil || r.MaxUnavailable == nil || r.MaxUnavailable.IntValue() != 0 {
			m.wrong("%s takes servers away before there are new ones", name)
		}
		for _, c := range spec.Containers {
			if c.Lifecycle == nil || c.Lifecycle.PreStop == nil || c.Lifecycle.PreStop.Sleep == nil || c.Lifecycle.PreStop.Sleep.Seconds < 1 {
				m.wrong("%s ends before every node knows that it is out of the Service", name)
				continue
			}
			takes := time.Duration(c.Lifecycle.PreStop.Sleep.Seconds) * time.Second
			for _, flag := range []string{"--drain-delay=", "--drain-timeout="} {
				i := slices.IndexFunc(c.Args, func(a string) bool { return strings.HasPrefix(a, flag) })
				if i < 0 {
					m.wrong("%s has no %s", name, flag)
					continue
				}
				took, err := time.ParseDuration(strings.TrimPrefix(c.Args[i], flag))
				if err != nil {
					m.wrong("%s: %v", name, err)
				}
				takes += took
			}
			if grace := spec.TerminationGracePeriodSeconds; grace == nil || time.Duration(*grace)*time.Second < takes+5*time.Second {
				m.wrong("%s may take %v to end, and some seconds to close the store, which is more than its grace period", name, takes)
			}
			if p := c.ReadinessProbe; p == nil || p.HTTPGet == nil || p.HTTPGet.Path != "/readyz" {
				m.wrong("%s: nobody asks for its readiness", name)
			}
			if p := c.LivenessProbe; p == nil || p.HTTPGet == nil || p.HTTPGet.Path != "/healthz" {
				m.wrong("%s is killed for what is not its fault", name)
			}
		}
	}
}

// firewall looks at who can reach whom.
func (m *manifests) firewall() {
	both := []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	deny := false
	for _, p := range m.policies {
		who := "NetworkPolicy " + p.Name
		all := len(p.Spec.PodSelector.MatchLabels)+len(p.Spec.PodSelector.MatchExpressions) == 0
		deny = deny || all && slices.Equal(p.Spec.PolicyTypes, both) && len(p.Spec.Ingress)+len(p.Spec.Egress) == 0
		if all {
			for _, in := range p.Spec.Ingress {
				m.wrong("%s lets everybody be reached on %v", who, in.Ports)
			}
			continue
		}
		for _, pod := range m.selected(who, &p.Spec.PodSelector) {
			for _, in := range p.Spec.Ingress {
				m.reach(who, pod, in)
			}
			for _, out := range p.Spec.Egress {
				for _, peer := range out.To {
					if peer.PodSelector == nil || peer.NamespaceSelector != nil {
						m.wrong("%s lets %s reach another namespace", who, pod)
						continue
					}
					for _, to := range m.selected(who, peer.PodSelector) {
						for _, port := range out.Ports {
							m.hasPort(who, &m.pods[to].Spec, *port.Port)
						}
					}
				}
				if len(out.To) == 0 {
					m.wrong("%s lets %s reach everybody", who, pod)
				}
			}
		}
	}
	if !deny {
		m.wrong("no NetworkPolicy denies what the others do not allow")
	}
	for name := range m.pods {
		if !slices.ContainsFunc(slices.Collect(maps.Values(m.policies)), func(p *networkingv1.NetworkPolicy) bool {
			return len(p.Spec.Ingress) > 0 && m.selects(p.Name, &p.Spec.PodSelector, m.pods[name].Labels)
		}) {
			m.wrong("nobody can reach %s", name)
		}
	}
}

// reach looks at who may reach a pod: the store's are for the servers alone, and theirs
// for the Ingress controller.
func (m *manifests) reach(who, pod string, in networkingv1.NetworkPolicyIngressRule) {
	if len(in.From) == 0 || len(in.Ports) == 0 {
		m.wrong("%s lets everybody reach %s, or every port of it", who, pod)
	}
	for _, port := range in.Ports {
		m.hasPort(who, &m.pods[pod].Spec, *port.Port)
	}
	for _, peer := range in.From {
		if m.deployments[pod] != nil {
			if peer.NamespaceSelector == nil || len(peer.NamespaceSelector.MatchLabels) == 0 {
				m.wrong("%s lets more than the Ingress controller reach %s", who, pod)
			}
			continue
		}
		if peer.PodSelector == nil || peer.NamespaceSelector != nil || peer.IPBlock != nil {
			m.wrong("%s lets others than pods of its namespace reach %s", who, pod)
			continue
		}
		for _, from := range m.selected(who, peer.PodSelector) {
			if m.deployments[from] == nil {
				m.wrong("%s lets %s reach %s", who, from, pod)
			}
		}
	}
}

// storeURL looks whether the files and the host that the store's URL names are there.
func (m *manifests) storeURL() {
	for name, d := range m.deployments {
		spec := d.Spec.Template.Spec
		c := spec.Containers[0]
		i := slices.IndexFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == "COATCHECK_STORE" })
		if i < 0 || c.Env[i].ValueFrom == nil || c.Env[i].ValueFrom.SecretKeyRef == nil {
			m.wrong("%s: the store's URL, which has a password, is not from a Secret", name)
			continue
		}
		ref := c.Env[i].ValueFrom.SecretKeyRef
		if m.secrets[ref.Name] == nil {
			continue // which is said already
		}
		u, err := url.Parse(m.secrets[ref.Name].StringData[ref.Key])
		if err != nil || u.Scheme != "rediss" {
			m.wrong("%s reaches its store without TLS: %v", name, err)
			continue
		}
		if s := m.services[u.Hostname()]; s == nil || !slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return fmt.Sprint(p.Port) == u.Port() }) {
			m.wrong("%s: the store is at %s, where no Service is", name, u.Host)
		}
		for _, parameter := range []string{"ca", "cert", "key"} {
			file := u.Query().Get(parameter)
			if !slices.ContainsFunc(c.VolumeMounts, func(v corev1.VolumeMount) bool {
				j := slices.IndexFunc(spec.Volumes, func(w corev1.Volume) bool { return w.Name == v.Name && w.Secret != nil })
				if j < 0 || v.MountPath != path.Dir(file) || m.secrets[spec.Volumes[j].Secret.SecretName] == nil {
					return false
				}
				return m.secrets[spec.Volumes[j].Secret.SecretName].StringData[path.Base(file)] != ""
			}) {
				m.wrong("%s: the store's URL names %s, which no Secret brings there", name, file)
			}
		}
	}
}

// forks looks whether the store has room to save.
func (m *manifests) forks() {
	for name, pod := range m.pods {
		for _, v := range pod.Spec.Volumes {
			if v.ConfigMap == nil || m.configs[v.ConfigMap.Name] == nil {
				continue
			}
			limit := pod.Spec.Containers[0].Resources.Limits.Memory().Value()
			if max := megabytes(m.configs[v.ConfigMap.Name].Data["valkey.conf"]); max == 0 || 2*max > limit {
				m.wrong("%s keeps %d bytes of %d, and has no room to fork", name, max, limit)
			}
		}
	}
}

// megabytes returns how many bytes a store may keep by its configuration or arguments, 0 if
// that is not there.
func megabytes(text string) int64 {
	found := regexp.MustCompile(`maxmemory (\d+)mb\b`).FindStringSubmatch(text)
	if found == nil {
		return 0
	}
	n, err := strconv.ParseInt(found[1], 10, 32)
	if err != nil {
		return 0
	}
	return n << 20
}

func readFolder(t *testing.T, dir string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no files in %s: %v", dir, err)
	}
	files := make(map[string]string)
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(p)] = string(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")))
	}
	return files
}

func TestKubernetes(t *testing.T) {
	for _, problem := range problems(readFolder(t, "kubernetes")) {
		t.Error(problem)
	}
}

// TestKubernetesCanFail proves that what TestKubernetes looks for is found.
func TestKubernetesCanFail(t *testing.T) {
	for _, tt := range []struct {
		file, old, new string
		want           string // in what is said
	}{
		{"app.yaml", "readinessProbe:", "readynessProbe:", `unknown field "spec.template.spec.containers[0].readynessProbe"`},
		{"app.yaml", "readOnlyRootFilesystem: true", "readOnlyRootFileSystem: true", "unknown field"},
		{"app.yaml", "maxSkew: 1", "maxSkew: one", "cannot unmarshal"},
		{"app.yaml", "memory: 256Mi", "memory: 256Megabytes", "quantities must match"},
		{"app.yaml", "kind: Deployment", "kind: Deploymnet", `no kind "Deploymnet"`},
		{"app.yaml", "apiVersion: policy/v1", "apiVersion: policy/v1beta1", "no kind"},
		{"app.yaml", "      enableServiceLinks: false\n", "      enableServiceLinks: false\n      enableServiceLinks: false\n", "already set"},
		{"app.yaml", "      port: 80\n      targetPort: http\n", "      port: 80\n      targetPort: web\n", "port web"},
		{"app.yaml", "  selector:\n    matchLabels:\n      app.kubernetes.io/name: app\n  strategy:", "  selector:\n    matchLabels:\n      app.kubernetes.io/name: shop\n  strategy:", "does not select its own pods"},
		{"app.yaml", "  unhealthyPodEvictionPolicy: AlwaysAllow\n  selector:\n    matchLabels:\n      app.kubernetes.io/name: app", "  selector:\n    matchLabels:\n      app.kubernetes.io/name: shop", "selects no pod"},
		{"app.yaml", "terminationGracePeriodSeconds: 40", "terminationGracePeriodSeconds: 30", "more than its grace period"},
		{"app.yaml", "seconds: 5", "seconds: 15", "more than its grace period"},
		{"app.yaml", "path: /healthz\n              port: http\n            periodSeconds: 10", "path: /readyz\n              port: http\n            periodSeconds: 10", "not its fault"},
		{"app.yaml", "key: url", "key: URL", "which is not there"},
		{"app.yaml", "runAsNonRoot: true", "runAsNonRoot: false", "may be root"},
		{"app.yaml", "drop: [ALL]", "drop: [NET_RAW]", "more than it needs"},
		{"app.yaml", "mountPath: /etc/store-tls", "mountPath: /etc/tls", "which no Secret brings there"},
		{"app.yaml", "name: store-tls\n              mountPath", "name: tls\n              mountPath", "no volume of the pod"},
		{"app.yaml", "--name=$(POD_NAME)", "--name=$(POD)", "no variable"},
		{"app.yaml", "secretName: shop-tls", "secretName: tls", "no certificate"},
		{"app.yaml", "port:\n                  name: http", "port:\n                  name: https", "does not have"},
		{"app.yaml", "  revisionHistoryLimit: 3", "  replicas: 3", "undo the autoscaler"},
		{"app.yaml", "maxUnavailable: 1\n  unhealthy", "maxUnavailable: 0\n  unhealthy", "lets no node be emptied"},
		{"autoscaler.yaml", "    name: app\n  minReplicas", "    name: shop\n  minReplicas", "which is not there"},
		{"app.yaml", "            - --metrics=0.0.0.0:8083", "            - --metrics=0.0.0.0:8084", "serves no metrics"},
		{"network.yaml", "          port: metrics\n", "          port: http\n", "lets Prometheus reach"},
		{"autoscaler.yaml", `averageValue: "10"`, `averageValue: "0"`, "average to keep"},
		{"network.yaml", "    - from:\n        - podSelector:\n            matchLabels:\n              app.kubernetes.io/name: app", "    - from:\n        - podSelector: {}", "lets store reach store"},
		{"network.yaml", "policyTypes: [Ingress, Egress]\n---\n# Names", "policyTypes: [Ingress]\n---\n# Names", "denies what the others"},
		{"network.yaml", "    - from:\n        - namespaceSelector:\n            matchLabels:\n              kubernetes.io/metadata.name: ingress\n", "    - from:\n        - namespaceSelector: {}\n", "more than the Ingress controller"},
		{"secrets.example.yaml", "url: rediss://", "url: redis://", "without TLS"},
		{"secrets.example.yaml", "@store:6379", "@valkey:6379", "where no Service is"},
		{"kustomization.yaml", "  - network.yaml\n", "", "the kustomization has"},
		{"kustomization.yaml", "  - network.yaml\n", "  - network.yaml\n  - secrets.example.yaml\n", "writes over the secrets"},
		{"namespace.yaml", "enforce: restricted", "enforce: baseline", "restricted profile"},
		{"store.yaml", "maxmemory 256mb", "maxmemory 400mb", "no room to fork"},
		{"store.yaml", "automountServiceAccountToken: false", "automountServiceAccountToken: true", "token"},
	} {
		files := readFolder(t, "kubernetes")
		if strings.Count(files[tt.file], tt.old) < 1 {
			t.Errorf("%s has no %q", tt.file, tt.old)
			continue
		}
		files[tt.file] = strings.Replace(files[tt.file], tt.old, tt.new, 1)
		if found := problems(files); !slices.ContainsFunc(found, func(p string) bool { return strings.Contains(p, tt.want) }) {
			t.Errorf("with %q for %q in %s is said %q, want %q", tt.new, tt.old, tt.file, found, tt.want)
		}
	}
}
