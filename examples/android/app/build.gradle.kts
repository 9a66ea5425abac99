// The operators' library comes from the presets android-arm64 and android-x64 (docs/howto/mobile.md):
//   app/src/main/jniLibs/arm64-v8a/libdualbinary.so
//   app/src/main/jniLibs/x86_64/libdualbinary.so
import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
}

android {
    namespace = "dualbinary.example"
    compileSdk = 35
    defaultConfig {
        applicationId = "dualbinary.example"
        minSdk = 24 // ONNX Runtime's own
        targetSdk = 35
        ndk { abiFilters += listOf("arm64-v8a", "x86_64") }
    }
    // Libraries stay in the APK, uncompressed and aligned to pages of 16 KiB, and are mapped from there.
    packaging { jniLibs { useLegacyPackaging = false } }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
}

kotlin {
    compilerOptions { jvmTarget = JvmTarget.JVM_17 }
}

dependencies {
    implementation("com.microsoft.onnxruntime:onnxruntime-android:1.29.0")
}
