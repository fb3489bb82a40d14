package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// provisionerName is what the StorageClass names.
const provisionerName = "cachecluster.io/testbed"

// directories makes each volume a directory of the node on which its first pod runs.
//
// They are `local` volumes, not `hostPath`: for those the kubelet applies the pod's fsGroup, and the volume's
// node affinity keeps the pod where its data is. The size is not enforced.
type directories struct{ root string }

func (d directories) path(node, volume string) string {
	return filepath.Join(d.root, node, "volumes", volume)
}

// Provision makes the directory. It is open to all, so that any non-root user may write in it.
func (d directories) Provision(_ context.Context, options controller.ProvisionOptions) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	node := options.SelectedNodeName
	if node == "" {
		return nil, controller.ProvisioningFinished, fmt.Errorf("the storage class must wait for the first consumer")
	}
	path := d.path(node, options.PVName)
	if err := os.MkdirAll(path, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	if err := os.Chmod(path, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	mode := corev1.PersistentVolumeFilesystem
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: options.PVName},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *options.StorageClass.ReclaimPolicy,
			AccessModes:                   options.PVC.Spec.AccessModes,
			Capacity:                      options.PVC.Spec.Resources.Requests,
			VolumeMode:                    &mode,
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				Local: &corev1.LocalVolumeSource{Path: path},
			},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{
					MatchExpressions: []corev1.NodeSelectorRequirement{{
						Key:      corev1.LabelHostname,
						Operator: corev1.NodeSelectorOpIn,
						Values:   []string{node},
					}},
				}},
			}},
		},
	}, controller.ProvisioningFinished, nil
}

// Delete removes the directory and all that is in it.
func (d directories) Delete(_ context.Context, volume *corev1.PersistentVolume) error {
	if volume.Spec.Local == nil {
		return fmt.Errorf("volume %s is not of this provisioner", volume.Name)
	}
	path := volume.Spec.Local.Path
	if expected, err := filepath.Match(filepath.Join(d.root, "*", "volumes", volume.Name), path); err != nil || !expected {
		return fmt.Errorf("volume %s names %s, which is no directory of this cluster", volume.Name, path)
	}
	return os.RemoveAll(path)
}

func provisionVolumes(ctx context.Context, client kubernetes.Interface, root string) {
	log.Printf("provisioning volumes under %s", root)
	controller.NewProvisionController(ctx, client, provisionerName, directories{root},
		controller.LeaderElection(false),
	).Run(ctx)
}
