package suites

import (
	_ "k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	_ "sigs.k8s.io/custom-metrics-apiserver/pkg/cmd"
	_ "sigs.k8s.io/custom-metrics-apiserver/pkg/provider"
)
