// Command csi-hostpath is a CSI driver whose volumes and snapshots are folders of the node it runs on: enough for
// trying what needs real volumes, snapshots, and volumes made from them. It keeps no size and has no second node.
package main

import (
	"context"
	"errors"
	"flag"
	"io/fs"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const (
	name    = "hostpath.recell.dev"
	content = "content"
)

func main() {
	socket := flag.String("socket", "/var/lib/kubelet/plugins/"+name+"/csi.sock", "where the driver serves CSI")
	registry := flag.String("registry", "/var/lib/kubelet/plugins_registry", "where the kubelet looks for plugins")
	data := flag.String("data", "", "the folder with volumes and snapshots")
	node := flag.String("node", "", "the node's name")
	flag.Parse()
	if *data == "" || *node == "" {
		log.Fatal("--data and --node are needed")
	}
	driver := &driver{data: *data, node: *node}
	for _, folder := range []string{driver.volume(""), driver.snapshot(""), filepath.Dir(*socket), *registry} {
		if err := os.MkdirAll(folder, 0o750); err != nil {
			log.Fatal(err)
		}
	}
	go serve(filepath.Join(*registry, name+"-reg.sock"), func(server *grpc.Server) {
		registration.RegisterRegistrationServer(server, &plugin{socket: *socket})
	})
	serve(*socket, func(server *grpc.Server) {
		csi.RegisterIdentityServer(server, driver)
		csi.RegisterControllerServer(server, driver)
		csi.RegisterNodeServer(server, driver)
	})
}

func serve(socket string, register func(*grpc.Server)) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(logged))
	register(server)
	log.Fatal(server.Serve(listener))
}

func logged(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	answer, err := handle(ctx, request)
	if err != nil {
		log.Printf("%s: %v", info.FullMethod, err)
	}
	return answer, err
}

// plugin tells the kubelet where the driver is.
type plugin struct {
	registration.UnimplementedRegistrationServer
	socket string
}

func (p *plugin) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type: registration.CSIPlugin, Name: name, Endpoint: p.socket, SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (p *plugin) NotifyRegistrationStatus(
	_ context.Context, told *registration.RegistrationStatus,
) (*registration.RegistrationStatusResponse, error) {
	if !told.PluginRegistered {
		log.Printf("the kubelet refuses the driver: %s", told.Error)
	}
	return &registration.RegistrationStatusResponse{}, nil
}

type driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer
	data, node string
}

func (d *driver) volume(id string) string   { return filepath.Join(d.data, "volumes", id) }
func (d *driver) snapshot(id string) string { return filepath.Join(d.data, "snapshots", id) }

// Identity ------------------------------------------------------------------------------------------------------

func (d *driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: name, VendorVersion: "1"}, nil
}

func (d *driver) GetPluginCapabilities(
	context.Context, *csi.GetPluginCapabilitiesRequest,
) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{{
		Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{
			Type: csi.PluginCapability_Service_CONTROLLER_SERVICE,
		}},
	}}}, nil
}

func (d *driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

// Controller ----------------------------------------------------------------------------------------------------

func (d *driver) ControllerGetCapabilities(
	context.Context, *csi.ControllerGetCapabilitiesRequest,
) (*csi.ControllerGetCapabilitiesResponse, error) {
	answer := &csi.ControllerGetCapabilitiesResponse{}
	for _, kind := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
	} {
		answer.Capabilities = append(answer.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: kind}},
		})
	}
	return answer, nil
}

func (d *driver) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	id, err := checked(r.GetName())
	if err != nil {
		return nil, err
	}
	source := ""
	if from := r.GetVolumeContentSource(); from != nil {
		if from.GetSnapshot() == nil {
			return nil, status.Error(codes.InvalidArgument, "a volume is made from a snapshot or from nothing")
		}
		snapshot, err := checked(from.GetSnapshot().GetSnapshotId())
		if err != nil {
			return nil, err
		}
		source = filepath.Join(d.snapshot(snapshot), content)
		if _, err := os.Stat(source); err != nil {
			return nil, status.Errorf(codes.NotFound, "there is no snapshot %s", snapshot)
		}
	}
	if err := copied(source, d.volume(id)); err != nil {
		return nil, err
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId:      id,
		CapacityBytes: r.GetCapacityRange().GetRequiredBytes(),
		ContentSource: r.GetVolumeContentSource(),
	}}, nil
}

func (d *driver) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	id, err := checked(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	return &csi.DeleteVolumeResponse{}, os.RemoveAll(d.volume(id))
}

func (d *driver) ValidateVolumeCapabilities(
	_ context.Context, r *csi.ValidateVolumeCapabilitiesRequest,
) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	return &csi.ValidateVolumeCapabilitiesResponse{
		Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: r.GetVolumeCapabilities()},
	}, nil
}

func (d *driver) CreateSnapshot(_ context.Context, r *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	id, err := checked(r.GetName())
	if err != nil {
		return nil, err
	}
	volume, err := checked(r.GetSourceVolumeId())
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(d.volume(volume)); err != nil {
		return nil, status.Errorf(codes.NotFound, "there is no volume %s", volume)
	}
	if err := os.MkdirAll(d.snapshot(id), 0o750); err != nil {
		return nil, err
	}
	if err := copied(d.volume(volume), filepath.Join(d.snapshot(id), content)); err != nil {
		return nil, err
	}
	// The folder's own time: its content came into it when the copy was complete.
	found, err := os.Stat(d.snapshot(id))
	if err != nil {
		return nil, err
	}
	return &csi.CreateSnapshotResponse{Snapshot: &csi.Snapshot{
		SnapshotId:     id,
		SourceVolumeId: volume,
		CreationTime:   timestamppb.New(found.ModTime()),
		ReadyToUse:     true,
	}}, nil
}

func (d *driver) DeleteSnapshot(
	_ context.Context, r *csi.DeleteSnapshotRequest,
) (*csi.DeleteSnapshotResponse, error) {
	id, err := checked(r.GetSnapshotId())
	if err != nil {
		return nil, err
	}
	return &csi.DeleteSnapshotResponse{}, os.RemoveAll(d.snapshot(id))
}

// Node ----------------------------------------------------------------------------------------------------------

func (d *driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.node}, nil
}

func (d *driver) NodeGetCapabilities(
	context.Context, *csi.NodeGetCapabilitiesRequest,
) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

func (d *driver) NodePublishVolume(
	_ context.Context, r *csi.NodePublishVolumeRequest,
) (*csi.NodePublishVolumeResponse, error) {
	id, err := checked(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	target := r.GetTargetPath()
	if err := os.MkdirAll(target, 0o750); err != nil {
		return nil, err
	}
	if mounted(target) {
		return &csi.NodePublishVolumeResponse{}, nil
	}
	if err := syscall.Mount(d.volume(id), target, "", syscall.MS_BIND, ""); err != nil {
		return nil, err
	}
	if r.GetReadonly() {
		err = syscall.Mount("", target, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
	}
	return &csi.NodePublishVolumeResponse{}, err
}

func (d *driver) NodeUnpublishVolume(
	_ context.Context, r *csi.NodeUnpublishVolumeRequest,
) (*csi.NodeUnpublishVolumeResponse, error) {
	target := r.GetTargetPath()
	if mounted(target) {
		if err := syscall.Unmount(target, 0); err != nil {
			return nil, err
		}
	}
	// Only the mount point itself: whatever were still mounted there would be customers' data.
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// Folders -------------------------------------------------------------------------------------------------------

// checked is an id that is the name of a folder and nothing else.
func checked(id string) (string, error) {
	if id == "" || id == "." || id == ".." || strings.ContainsRune(id, filepath.Separator) {
		return "", status.Errorf(codes.InvalidArgument, "%q is not an id", id)
	}
	return id, nil
}

// copied makes the folder to with what is in from (nothing if that is empty); whole or not at all, and once.
func copied(from, to string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	partial := to + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return err
	}
	if err := os.Mkdir(partial, 0o777); err != nil {
		return err
	}
	if err := os.Chmod(partial, 0o777); err != nil { // whatever user a pod runs as
		return err
	}
	if from != "" {
		if said, err := exec.Command("cp", "-a", from+"/.", partial).CombinedOutput(); err != nil {
			return status.Errorf(codes.Internal, "copying %s: %v: %s", from, err, said)
		}
	}
	return os.Rename(partial, to)
}

// mounted says whether something is mounted at path.
func mounted(path string) bool {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	for _, line := range strings.Split(string(table), "\n") {
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == path {
			return true
		}
	}
	return false
}
