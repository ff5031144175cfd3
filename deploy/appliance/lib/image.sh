# Sourced by deploy/appliance/build: a disk image of the finished root file system. No loop device, no mount: every part
# is written into a file, so it can be built wherever the root file system can.
# Uses the caller's: ROOT, target, temporary, image.
# shellcheck shell=bash disable=SC2154

# shellcheck disable=SC2034 # build adds them to the lower layer
# amd64 only: what a boot loader is differs too much elsewhere.
IMAGE_PACKAGES=(
    linux-image-amd64 initramfs-tools e2fsprogs zstd
    grub-pc-bin grub-efi-amd64-signed shim-signed
    cloud-init cloud-guest-utils systemd-resolved
)
LABEL=bellwether
MIB=$((1024 * 1024))
# The first partition takes what the BIOS starts, the second what UEFI starts; the third, the last, grows with the disk.
BIOS_START=1 BIOS_SIZE=1 ESP_START=2 ESP_SIZE=30 ROOT_START=32

ensure_image_tools() {
    local missing=()
    [ "$(dpkg --print-architecture)" = amd64 ] || die "--image is for amd64 only"
    has qemu-img || missing+=(qemu-utils)
    has mcopy || missing+=(mtools)
    has mkfs.vfat || missing+=(dosfstools)
    has sfdisk || missing+=(fdisk)
    has mke2fs || missing+=(e2fsprogs)
    [ ${#missing[@]} -eq 0 ] || bash "$ROOT/deploy/lib/packages.sh" "${missing[@]}" </dev/null
}

image_layer() {
    local raw=$temporary/disk.raw size
    say "Writing the disk image ..."
    [ -e "$target/vmlinuz" ] || die "$target has no kernel: its lower layer was made without --image"
    install_files image
    install -d "$target/boot/grub"
    echo "LABEL=$LABEL / ext4 defaults,errors=remount-ro 0 1" >"$target/etc/fstab"
    inside systemctl --quiet enable systemd-networkd systemd-resolved
    size=$(($(du -xsm "$target" | cut -f 1) * 3 / 2 + 512 + ROOT_START))
    truncate -s "${size}M" "$raw"
    partitions | sfdisk --quiet "$raw"
    root_partition "$raw" $((size - ROOT_START - 1))
    uefi_partition "$raw"
    bios_start "$raw"
    qemu-img convert -f raw -O qcow2 -c "$raw" "$temporary/disk.qcow2"
    rm -f "$raw"
    mv -f "$temporary/disk.qcow2" "$image"
    say "$image: $(($(stat -c %s "$image") / MIB)) MiB, a disk of $size MiB that grows with what it is put on."
}

partitions() {
    echo "label: gpt"
    echo "start=${BIOS_START}MiB, size=${BIOS_SIZE}MiB, type=21686148-6449-6E6F-744E-656564454649, name=bios"
    echo "start=${ESP_START}MiB, size=${ESP_SIZE}MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp"
    echo "start=${ROOT_START}MiB, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root"
}

root_partition() {
    mke2fs -q -t ext4 -L "$LABEL" -d "$target" -E "offset=$((ROOT_START * MIB))" "$1" "$2M"
}

# Debian's signed shim and GRUB: also where Secure Boot is on. GRUB looks for its configuration in /EFI/debian.
uefi_partition() {
    local esp=$temporary/esp.img
    mkfs.vfat -n ESP -C "$esp" $((ESP_SIZE * 1024)) >/dev/null
    # shellcheck disable=SC2016 # GRUB's variables
    printf 'search --no-floppy --label --set=root %s\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n' "$LABEL" \
        >"$temporary/grub.cfg"
    mmd -i "$esp" ::/EFI ::/EFI/BOOT ::/EFI/debian
    mcopy -i "$esp" "$target/usr/lib/shim/shimx64.efi.signed" ::/EFI/BOOT/BOOTX64.EFI
    mcopy -i "$esp" "$target/usr/lib/shim/mmx64.efi.signed" ::/EFI/BOOT/mmx64.efi
    mcopy -i "$esp" "$target/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" ::/EFI/BOOT/grubx64.efi
    mcopy -i "$esp" "$temporary/grub.cfg" ::/EFI/debian/grub.cfg
    dd if="$esp" of="$1" bs=$MIB seek=$ESP_START conv=notrunc status=none
}

# What grub-install does on a disk, done to a file: GRUB's first sector, and its core in the partition that is there for
# it. Each is told the sector of what comes after it (GRUB manual, "Images").
bios_start() {
    local grub=usr/lib/grub/i386-pc core=/var/tmp/bellwether-core.img first=$((BIOS_START * MIB / 512))
    cp "$temporary/grub.cfg" "$target/var/tmp/bellwether-grub.cfg"
    inside grub-mkimage -O i386-pc -p /boot/grub -c /var/tmp/bellwether-grub.cfg -o "$core" \
        biosdisk part_gpt ext2 search search_label configfile normal linux echo test
    dd if="$target/$grub/boot.img" of="$1" bs=1 count=440 conv=notrunc status=none
    little_endian "$first" | dd of="$1" bs=1 seek=92 conv=notrunc status=none
    dd if="$target$core" of="$1" bs=512 seek="$first" conv=notrunc status=none
    little_endian $((first + 1)) | dd of="$1" bs=1 seek=$((first * 512 + 500)) conv=notrunc status=none
    rm -f "$target$core" "$target/var/tmp/bellwether-grub.cfg"
}

# Eight bytes.
little_endian() {
    local number=$1 byte
    for byte in 0 1 2 3 4 5 6 7; do
        # shellcheck disable=SC2059 # the byte is the format
        printf "\\x$(printf %02x $((number >> (8 * byte) & 255)))"
    done
}
