# Writes an OCI image archive to standard output: busybox and nothing else, by the name $1. It is
# the pause container and the pods' programs at once.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

mkdir -p root/bin root/www root/tmp oci/blobs/sha256
cp "$(command -v busybox)" root/bin/busybox
for name in $(busybox --list); do
  [ "$name" = busybox ] || ln -s busybox "root/bin/$name"
done
tar --sort=name --mtime=@0 -C root -cf layer .

# Moves a file to where its digest says, and prints the digest.
blob() {
  digest=$(sha256sum <"$1" | cut -d' ' -f1)
  mv "$1" "oci/blobs/sha256/$digest"
  echo "sha256:$digest"
}
descriptor() { # media type, file
  size=$(stat -c %s "$2")
  printf '"mediaType":"application/vnd.oci.image.%s","size":%d,"digest":"%s"' "$1" "$size" "$(blob "$2")"
}

layer=$(descriptor layer.v1.tar layer)
cat >config <<END
{"architecture":"amd64","os":"linux",
 "config":{"Env":["PATH=/bin"],"Cmd":["sleep","1000000"]},
 "rootfs":{"type":"layers","diff_ids":["${layer##*\"digest\":\"}]}}
END
config=$(descriptor config.v1+json config)
cat >manifest <<END
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
 "config":{$config},"layers":[{$layer}]}
END
manifest=$(descriptor manifest.v1+json manifest)
cat >oci/index.json <<END
{"schemaVersion":2,"manifests":[{$manifest,
 "annotations":{"io.containerd.image.name":"$1","org.opencontainers.image.ref.name":"$1"}}]}
END
echo '{"imageLayoutVersion":"1.0.0"}' >oci/oci-layout
tar -C oci -cf - .
