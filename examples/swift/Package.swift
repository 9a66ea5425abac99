// swift-tools-version:5.9
// ONNX Runtime for Swift: https://github.com/microsoft/onnxruntime-swift-package-manager. The operators are linked in,
// from a static library; docs/howto/mobile.md says how dualbinary.xcframework is made.
import PackageDescription

let package = Package(
    name: "generate",
    platforms: [.macOS(.v13), .iOS(.v16)],
    dependencies: [
        .package(url: "https://github.com/microsoft/onnxruntime-swift-package-manager", from: "1.24.0")
    ],
    targets: [
        .binaryTarget(name: "dualbinary", path: "dualbinary.xcframework"),
        .executableTarget(
            name: "generate",
            dependencies: [
                "dualbinary",
                .product(name: "onnxruntime", package: "onnxruntime-swift-package-manager"),
            ],
            linkerSettings: [
                .linkedLibrary("c++"),
                // It is looked up by its name at run time, which no linker sees.
                .unsafeFlags(["-Xlinker", "-u", "-Xlinker", "_RegisterDualBinaryCustomOps"]),
            ]),
    ])
